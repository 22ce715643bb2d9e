"""Kinds of items: what a parser with a stack of Python lists sees, told by reading the words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlparse import PAD, lockstep
from rlparse.trees import uniform_tree
from rlparse_experiments.diagnosis.item_kinds import ItemKinds, items
from slow_stack import kind_teller, plain_kind, states


@pytest.mark.parametrize(
    ("which", "names"),
    [
        ("listops", ("operator", "digit", "bracket")),
        ("tokens", ("opening", "word", "closing")),
        ("dropped", ()),
        ("half_parsed", ()),
    ],
)
def test_kinds_are_those_a_reader_of_the_words_tells(request, which, names):
    if which in ("tokens", "dropped"):
        corpus = request.getfixturevalue("make_logic")(which)
    else:
        corpus = request.getfixturevalue(which)
    n_sides = corpus.n_sides
    kinds = ItemKinds(
        [corpus.sentence(i, side) for i in range(len(corpus)) for side in range(n_sides)], n_sides
    )
    kind_of = kind_teller(names) if names else plain_kind
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(corpus))[:20]
    batch = corpus.batch(chosen)
    transitions = torch.full_like(batch.gold, PAD)
    for row, n in enumerate(batch.lengths.tolist()):  # every other parse is gold
        wrong = torch.tensor(uniform_tree(n, rng))
        right = batch.gold[row, : 2 * n - 1]
        transitions[row, : 2 * n - 1] = right if row % 2 == 0 and batch.has_gold[row] else wrong
    codes = kinds(batch, items(transitions, lockstep.trace(transitions, batch.lengths)))
    seen = set()
    for row, n in enumerate(batch.lengths.tolist()):
        side, example = divmod(row, len(chosen))
        words = corpus.sentence(int(chosen[example]), side).tokens
        for step, top, second, _ in states(transitions[row, : 2 * n - 1].tolist()):
            found = [kinds.names[code] for code in codes[row, step].tolist()]
            assert found == [kind_of(words, top), kind_of(words, second)]
            seen |= set(found)
    assert seen == {*names, "open", "closed", "other"} if names else {"word", "phrase"}


@pytest.mark.parametrize(
    ("phrase", "kind"),
    [
        ((0, 1), "operator"),
        ((2, 3), "digit"),
        ((4, 5), "bracket"),
        ((1, 5), "closed"),
        ((0, 5), "open"),
        ((0, 7), "closed"),
        ((1, 6), "other"),
        ((2, 4), "other"),
        ((5, 7), "other"),
    ],
)
def test_known_kinds(phrase, kind):
    words = ("[MAX", "[SM", "1", "2", "]", "3", "]")
    assert kind_teller(("operator", "digit", "bracket"))(words, phrase) == kind
