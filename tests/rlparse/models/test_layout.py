"""A layout has a node for every subtree that differs, wherever leaves are shared, and says where each is used."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rlparse import compiled, lockstep
from rlparse.lockstep import Trace
from rlparse.models.layout import SCHEDULES, Layout, lay_out
from rlparse.trees import balanced, left_branching
from slow_reference import all_derivations, fold, padded, random_derivation

Tree = int | tuple["Tree", "Tree"]
"""A word, or two trees."""


def batch_of(n_rows: int, longest: int, n_words: int, seed: int = 0) -> tuple[list[list[int]], Tensor]:
    """Random derivations, and words with as many of them as there are tokens."""
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (n_rows,), generator=rng).tolist()
    words = torch.randint(0, n_words, (n_rows, longest), generator=rng)
    return [random_derivation(n, rng) for n in lengths], words


def trace_of(derivations: list[list[int]], n_tokens: int | None = None) -> Trace:
    lengths = torch.tensor([(len(d) + 1) // 2 for d in derivations])
    return lockstep.trace(padded(derivations, n_tokens), lengths)


def trees_of(derivation: list[int], words: Tensor) -> dict[int, Tree]:
    """The tree under every node id of a sentence, by the slow reference."""
    n = (len(derivation) + 1) // 2
    found: dict[int, Tree] = dict(enumerate(words[:n].tolist()))

    def compose(left: Tree, right: Tree) -> Tree:
        found[len(words) + len(found) - n] = (left, right)
        return left, right

    fold(words[:n].tolist(), derivation, compose)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_subtrees_share_a_row_exactly_if_they_are_equal(kernels, seed):
    derivations, words = batch_of(12, 9, 3, seed)
    layout = lay_out(trace_of(derivations, 9), "by_level", words, 3)
    rows: dict[Tree, int] = {}
    n_nodes = 0
    for r, derivation in enumerate(derivations):
        for node, tree in trees_of(derivation, words[r]).items():
            assert rows.setdefault(tree, int(layout.position[r, node])) == layout.position[r, node]
            n_nodes += isinstance(tree, tuple)
    assert len(set(rows.values())) == len(rows)
    composed = [tree for tree in rows if isinstance(tree, tuple)]
    assert sum(layout.sizes) == len(layout.children) == len(composed) < n_nodes
    for tree in composed:
        assert layout.children[rows[tree] - 3].tolist() == [rows[side] for side in tree]
    assert layout.rows is None
    ids = torch.arange(17)
    for r, derivation in enumerate(derivations):
        n = (len(derivation) + 1) // 2
        absent = ((ids >= n) & (ids < 9)) | (ids >= 9 + n - 1)
        assert (layout.position[r, absent] == 3 + len(composed)).all()


def uses_of(layout: Layout) -> list[list[int]]:
    """Uses of every table row."""
    sizes = [layout.n_leaves, *layout.sizes]
    starts = torch.cat([torch.arange(size) for size in sizes]) if layout.starts is None else layout.starts
    return [
        part.tolist()
        for own, begins in zip(layout.uses.split(layout.use_sizes), starts.split(sizes), strict=True)
        for part in torch.tensor_split(own, begins[1:])
    ]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("of_words", [False, True])
def test_every_row_knows_where_it_is_used(kernels, schedule, of_words):
    derivations, words = batch_of(12, 9, 5)
    words[words == 2] = 1  # a leaf that nothing uses
    trace = trace_of(derivations, 9)
    layout = lay_out(trace, schedule, words, 5) if of_words else lay_out(trace, schedule)
    used = [*layout.children.flatten().tolist(), *layout.roots.tolist()]
    wanted = [[place for place, row in enumerate(used) if row == own] for own in range(max(used) + 1)]
    assert uses_of(layout) == wanted
    assert (layout.starts is None) == (not of_words)
    assert (layout.rows is None) == (of_words and schedule == "by_level")


def test_a_repeated_sentence_has_the_nodes_of_one(kernels):
    one, words = balanced(8, split="floor"), torch.arange(8)
    trace = trace_of([one] * 5)
    layout = lay_out(trace, "by_level", words.expand(5, 8), 8)
    assert layout.sizes == [4, 2, 1]
    assert layout.roots.tolist() == [14] * 5
    assert layout.use_sizes == [8, 4, 2, 5]
    assert sum(lay_out(trace, "by_step", words.expand(5, 8), 8).sizes) == 5 * 7


def test_one_word_makes_a_node_of_each_shape(kernels):
    derivations = [list(d) for d in all_derivations(6)]
    layout = lay_out(trace_of(derivations), "by_level", torch.zeros(len(derivations), 6).long(), 1)
    shapes = {
        tree
        for d in derivations
        for tree in trees_of(d, torch.zeros(6).long()).values()
        if isinstance(tree, tuple)
    }
    assert len(layout.children) == len(shapes)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("n_words", [0, 1, 4, 400])
@pytest.mark.parametrize("shape", [(1, 1), (40, 30), (3, 200)])
def test_both_kinds_of_kernels_give_one_layout(monkeypatch, schedule, n_words, shape):
    if isinstance(reason := compiled.load(), str):
        pytest.skip(f"the kernels cannot be compiled here: {reason}")
    derivations, words = batch_of(*shape, max(n_words, 1))
    trace = trace_of(derivations, shape[1])
    found = []
    for kind in ("torch", "compiled"):
        monkeypatch.setenv("RLPARSE_KERNELS", kind)
        found.append(lay_out(trace, schedule, words, n_words) if n_words else lay_out(trace, schedule))
    for name, one, other in zip(Layout._fields, *found, strict=True):
        same = torch.equal(one, other) if isinstance(one, Tensor) else one == other
        assert same, name


def test_a_batch_may_be_empty(kernels):
    nothing = torch.zeros(0, 5).long()
    layout = lay_out(lockstep.trace(nothing, nothing[:, 0]), "by_level", nothing[:, :3], 2)
    assert (layout.sizes, layout.use_sizes, layout.n_leaves) == ([], [0], 2)


@pytest.mark.parametrize("bad", [-1, 2])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_c_follows_no_leaf_that_is_none(monkeypatch, bad, schedule):
    if isinstance(reason := compiled.load(), str):
        pytest.skip(f"the kernels cannot be compiled here: {reason}")
    monkeypatch.setenv("RLPARSE_KERNELS", "compiled")
    with pytest.raises(ValueError, match="leaves must be from 0 to 1, some token's is not"):
        lay_out(trace_of([left_branching(3)]), schedule, torch.tensor([[0, bad, 0]]), 2)
