"""Propositional-logic inference: which of seven relations holds between two formulas.

References: Bowman et al. 2015, "Tree-structured composition in neural networks without tree-structured
architectures"; Tran et al. 2018, "The importance of being recurrent for modeling hierarchical structure".

A formula over the variables a-f is a variable, ``( not x )``, ``( x ( and y ) )`` or ``( x ( or y ) )``.
Without its brackets it is ambiguous, so its label can only be told from the right tree or from the brackets
themselves. Both can be had: sentences without bracket tokens whose gold parse is the formula's tree, or
sentences in which every bracket is a token and whose gold parse branches to the left inside each pair of
brackets, as in ListOps.

The generator draws as published: four of six variables per pair; in the upper three levels an operator with
probability 4/9, else a variable; every node negated with probability 1/3; formulas that always or never hold
are dropped. A pair belongs to the bin of its longer side, counted in operators (and, or, not). Pairs are
deduplicated inside a bin, and 15 % of each bin are test.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from rlparse.corpora.corpus import Corpus, CorpusBuilder
from rlparse.corpora.examples import RELATION_LABELS, Example, Sentence
from rlparse.corpora.listops import list_derivation
from rlparse.errors import CorpusError

VARIABLES = "abcdef"
VARIABLES_PER_PAIR = 4
OPERATOR_PROBABILITY = 4 / 9
NEGATION_PROBABILITY = 1 / 3
MAX_LENGTH = 12
LAST_BIN = 12
TEST_SHARE = 0.15
PUBLISHED_DRAWS = 500_000
"""Draws after which the bins have the sizes of the published ones, to 1 %."""

Brackets = Literal["dropped", "tokens"]

_N_WORLDS = 1 << len(VARIABLES)
_ALL = (1 << _N_WORLDS) - 1


class LogicPair(NamedTuple):
    """Two formulas and the relation between them; ``n_operators`` is that of the longer one."""

    relation: str
    left: str
    right: str
    n_operators: int


class _Formula(NamedTuple):
    text: str
    worlds: int  # bit w is set where the formula holds in world w
    n_operators: int


def _variable_worlds(position: int) -> int:
    """The worlds in which a variable holds: bit ``position`` of the world's number is set."""
    return sum(1 << world for world in range(_N_WORLDS) if world >> position & 1)


_LITERALS = {
    name: (
        _Formula(name, _variable_worlds(position), 0),
        _Formula(f"( not {name} )", _ALL ^ _variable_worlds(position), 1),
    )
    for position, name in enumerate(VARIABLES)
}


def relation(left: int, right: int) -> str:
    """The relation between two formulas, each given by the set of worlds in which it holds.

    Args:
        left: Bit w is set where the first formula holds in world w of 64; neither none nor all.
        right: The same for the second.
    """
    if left == right:
        return "="
    both, either = left & right, left | right
    if both == left:
        return "<"
    if both == right:
        return ">"
    if both == 0:
        return "^" if either == _ALL else "|"
    return "v" if either == _ALL else "#"


def draw_pairs(seed: int) -> Iterator[LogicPair]:
    """Draw pairs for ever, as the authors' program does; repeated pairs come repeatedly."""
    rng = random.Random(seed)
    uniform = rng.random
    binary, negation, variables = OPERATOR_PROBABILITY, NEGATION_PROBABILITY, VARIABLES_PER_PAIR
    chosen: list[tuple[_Formula, _Formula]] = []

    def formula(max_length: int) -> tuple[str, int, int]:
        if max_length > 1 and uniform() < binary:
            left_text, left_worlds, left_operators = formula(max_length // 2)
            right_text, right_worlds, right_operators = formula(max_length // 2)
            n_operators = left_operators + right_operators + 1
            if uniform() < 0.5:
                text, holds = f"( {left_text} ( and {right_text} ) )", left_worlds & right_worlds
            else:
                text, holds = f"( {left_text} ( or {right_text} ) )", left_worlds | right_worlds
            if uniform() < negation:
                return f"( not {text} )", _ALL ^ holds, n_operators + 1
            return text, holds, n_operators
        return chosen[int(uniform() * variables)][uniform() < negation]

    literals = list(_LITERALS.values())
    while True:
        chosen = rng.sample(literals, variables)
        left_text, left_worlds, left_operators = formula(MAX_LENGTH)
        right_text, right_worlds, right_operators = formula(MAX_LENGTH)
        if 0 < left_worlds < _ALL and 0 < right_worlds < _ALL:
            yield LogicPair(
                relation(left_worlds, right_worlds),
                left_text,
                right_text,
                max(left_operators, right_operators),
            )


def sentence_of(formula: str, brackets: Brackets = "dropped") -> Sentence:
    """A well-formed formula as a sentence with its gold parse.

    Args:
        formula: Bracketed text with a space around every bracket.
        brackets: "dropped": the formula's tree over its words. "tokens": brackets are words too, and the tree
            branches to the left inside each pair.
    """
    pieces = formula.split()
    if brackets == "tokens":
        return Sentence(tuple(pieces), list_derivation(pieces))
    return Sentence(
        tuple(piece for piece in pieces if piece not in "()"),
        tuple(int(piece == ")") for piece in pieces if piece != "("),
    )


def embedded_logic(
    n_train: int = 40_000,
    n_dev: int = 2_000,
    n_test: int = 2_000,
    *,
    seed: int = 0,
    operators: tuple[int, int] = (0, 6),
    test_operators: tuple[int, int] | None = None,
    brackets: Brackets = "dropped",
) -> tuple[Corpus, Corpus, Corpus]:
    """Generate disjoint training, development and test corpora with gold parses.

    Args:
        n_train: Pairs to train on.
        n_dev: Pairs for choosing a model, with the same numbers of operators.
        n_test: Pairs for the final score.
        seed: Of everything.
        operators: Least and most operators on the longer side in training and development.
        test_operators: The same for the test; None for ``operators``. Published: (7, 12) after (0, 6).
        brackets: Whether brackets are tokens, see ``sentence_of``.

    Raises:
        CorpusError: A range is empty, the two ranges overlap without being equal, or there are not that many
            different pairs.
    """
    if test_operators is None:
        test_operators = operators
    for low, high in (operators, test_operators):
        if not 0 <= low <= high:
            raise CorpusError(
                f"a range of operators is (least, most) with 0 <= least <= most, got ({low}, {high})"
            )
    (low, high), (test_low, test_high) = operators, test_operators
    same = operators == test_operators
    if not same and low <= test_high and test_low <= high:
        raise CorpusError(
            f"the operators of training {operators} and test {test_operators} must be equal or not overlap"
        )
    wanted = n_train + n_dev + (n_test if same else 0)
    wanted_test = 0 if same else n_test
    found: dict[LogicPair, None] = {}
    found_test: dict[LogicPair, None] = {}
    stale = 0
    for pair in draw_pairs(seed):
        if len(found) >= wanted and len(found_test) >= wanted_test:
            break
        stale += 1
        if stale > 200_000:
            raise CorpusError(
                f"found only {len(found)} of {wanted} different pairs with {low} to {high} operators and "
                f"{len(found_test)} of {wanted_test} with {test_low} to {test_high}, none in the last "
                f"{stale - 1} draws; ask for fewer, or for wider ranges"
            )
        if low <= pair.n_operators <= high:
            pool, enough = found, wanted
        elif test_low <= pair.n_operators <= test_high:
            pool, enough = found_test, wanted_test
        else:
            continue
        if len(pool) < enough and pair not in pool:
            pool[pair] = None
            stale = 0
    shuffler = random.Random(seed)
    pairs, test = list(found), list(found_test)
    shuffler.shuffle(pairs)
    shuffler.shuffle(test)
    if same:
        test = pairs[n_train + n_dev :]
    parts = (("train", pairs[:n_train]), ("dev", pairs[n_train : n_train + n_dev]), ("test", test))
    train, dev, held_out = (corpus_of(part, name=f"logic-{name}", brackets=brackets) for name, part in parts)
    return train, dev, held_out


def corpus_of(pairs: Sequence[LogicPair], *, name: str, brackets: Brackets = "dropped") -> Corpus:
    """Generated pairs as a corpus.

    Raises:
        CorpusError: There are no pairs.
    """
    known: dict[str, Sentence] = {}
    builder = CorpusBuilder()
    for pair in pairs:
        sides = []
        for text in (pair.left, pair.right):
            sentence = known.get(text)
            if sentence is None:
                sentence = known[text] = sentence_of(text, brackets)
            sides.append(sentence)
        builder.add(Example(tuple(sides), pair.relation))
    return builder.build(labels=RELATION_LABELS, name=name)


def draw_bins(n_draws: int, *, seed: int) -> list[list[LogicPair]]:
    """Draw the published way: the different pairs of ``n_draws`` draws by bin 0-12, each bin in random order.

    Raises:
        CorpusError: ``n_draws`` < 1.
    """
    if n_draws < 1:
        raise CorpusError(f"n_draws must be at least 1, got {n_draws}")
    bins: list[dict[LogicPair, None]] = [{} for _ in range(LAST_BIN + 1)]
    for pair, _ in zip(draw_pairs(seed), range(n_draws), strict=False):
        bins[min(LAST_BIN, pair.n_operators)][pair] = None
    shuffler = random.Random(seed)
    shuffled = [list(pairs) for pairs in bins]
    for pairs in shuffled:
        shuffler.shuffle(pairs)
    return shuffled


def write_logic(folder: Path, *, n_draws: int = PUBLISHED_DRAWS, seed: int = 0) -> list[Path]:
    """Generate a data set as published and write it in the official format, relation TAB formula TAB formula.

    Returns:
        The files written: ``train0`` to ``train12`` and ``test0`` to ``test12``, without empty ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, pairs in enumerate(draw_bins(n_draws, seed=seed)):
        n_train = int(len(pairs) * (1 - TEST_SHARE))
        for name, part in ((f"train{number}", pairs[:n_train]), (f"test{number}", pairs[n_train:])):
            if part:
                with (folder / name).open("w", encoding="utf-8", newline="\n") as file:
                    file.writelines(f"{pair.relation}\t{pair.left}\t{pair.right}\n" for pair in part)
                paths.append(folder / name)
    return paths
