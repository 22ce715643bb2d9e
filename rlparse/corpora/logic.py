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
are dropped. A pair belongs to the bin of its longer side, counted in operators (and, or, not); the last bin,
12, takes longer ones, too. Pairs are deduplicated inside a bin, and 15 % of each bin are test.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations, product
from pathlib import Path
from typing import Literal, NamedTuple

from rlparse.corpora.corpus import Corpus, CorpusBuilder
from rlparse.corpora.examples import RELATION_LABELS, Example, Sentence
from rlparse.corpora.listops import list_derivation
from rlparse.errors import CorpusError

VARIABLES = "abcdef"
VARIABLES_PER_PAIR = 4
OPERATOR_PROBABILITY = Fraction(4, 9)
LAST_BIN = 12
TEST_SHARE = 0.15
PUBLISHED_DRAWS = 500_000
"""Draws after which the bins have the sizes of the published ones, to 1 %."""

Brackets = Literal["dropped", "tokens"]

_PATIENCE = 200_000  # draws without a new pair
_N_WORLDS = 1 << VARIABLES_PER_PAIR
_ALL = (1 << _N_WORLDS) - 1


class LogicPair(NamedTuple):
    """Two formulas and the relation between them; ``n_operators`` is that of the longer one."""

    relation: str
    left: str
    right: str
    n_operators: int


def bin_of(n_operators: int) -> int:
    """Give the published bin of a pair by the operators of its longer side; the last bin takes all above it, too."""
    return min(LAST_BIN, n_operators)


_Formula = tuple[str, int, int]
"""Text over variables called 0 to 3; the worlds in which it holds (bit w for world w); number of operators.

A plain tuple, because making a NamedTuple would take a third of the time of drawing a pair.
"""


def _negated(formula: _Formula) -> _Formula:
    text, worlds, n_operators = formula
    return f"( not {text} )", _ALL ^ worlds, n_operators + 1


def _joined(left: _Formula, right: _Formula, use_and: bool) -> _Formula:
    left_text, left_worlds, left_operators = left
    right_text, right_worlds, right_operators = right
    n_operators = left_operators + right_operators + 1
    if use_and:
        return f"( {left_text} ( and {right_text} ) )", left_worlds & right_worlds, n_operators
    return f"( {left_text} ( or {right_text} ) )", left_worlds | right_worlds, n_operators


def _equally_likely() -> tuple[list[_Formula], list[_Formula]]:
    """Formulas of at most no and one binary operator, listed so often that a uniform choice has their probabilities."""
    literals: list[_Formula] = []
    for position in range(VARIABLES_PER_PAIR):
        holds = sum(1 << world for world in range(_N_WORLDS) if world >> position & 1)
        variable = (str(position), holds, 0)
        literals += [variable, variable, _negated(variable)]  # a third of them negated
    joined: list[_Formula] = []
    for left, right, use_and in product(literals, literals, (True, False)):
        formula = _joined(left, right, use_and)
        joined += [formula, formula, _negated(formula)]
    times = len(joined) * (1 - OPERATOR_PROBABILITY) / OPERATOR_PROBABILITY / len(literals)
    return literals, joined + literals * int(times)


_LITERALS, _SMALL = _equally_likely()


def relation(left: int, right: int) -> str:
    """The relation between two formulas, each given by the set of worlds in which it holds.

    Args:
        left: Bit w is set where the first formula holds in world w of 16; neither none nor all.
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
    uniform = random.Random(seed).random
    binary, n_literals, n_small = float(OPERATOR_PROBABILITY), len(_LITERALS), len(_SMALL)
    names = [str.maketrans("0123", "".join(chosen)) for chosen in combinations(VARIABLES, VARIABLES_PER_PAIR)]

    def join(left: _Formula, right: _Formula) -> _Formula:
        kind = int(uniform() * 6)
        formula = _joined(left, right, kind < 3)
        return _negated(formula) if kind % 3 == 0 else formula

    def middle() -> _Formula:
        if uniform() < binary:
            return join(_SMALL[int(uniform() * n_small)], _SMALL[int(uniform() * n_small)])
        return _LITERALS[int(uniform() * n_literals)]

    def whole() -> _Formula:
        return join(middle(), middle()) if uniform() < binary else _LITERALS[int(uniform() * n_literals)]

    while True:
        left_text, left_worlds, left_operators = whole()
        right_text, right_worlds, right_operators = whole()
        if 0 < left_worlds < _ALL and 0 < right_worlds < _ALL:
            name = names[int(uniform() * len(names))]
            yield LogicPair(
                relation(left_worlds, right_worlds),
                left_text.translate(name),
                right_text.translate(name),
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

    Training and development have the pairs of their range as they are drawn. A test on other bins has equally many of
    each bin, since each is reported for itself: of the draws from 7 to 12, a third are of bin 7 and a sixteenth of bin
    12. Training and development are the same whatever such a test is.

    Args:
        n_train: Pairs to train on.
        n_dev: Pairs for choosing a model, with the same numbers of operators.
        n_test: Pairs for the final score; where the bins of the test do not divide them, the first have one more.
        seed: Of everything.
        operators: Least and most operators on the longer side in training and development.
        test_operators: First and last bin of the test, see ``bin_of``; None, or ``operators``, for a part of what is
            drawn for the others. Published: (7, 12) after (0, 6).
        brackets: Whether brackets are tokens, see ``sentence_of``.

    Raises:
        CorpusError: A range is empty, the two ranges overlap without being equal, a bin of the test would be empty, or
            there are not that many different pairs.
    """
    (low, high), (test_low, test_high) = operators, test_operators or operators
    same = (low, high) == (test_low, test_high)
    for least, most in ((low, high), (test_low, test_high)):
        if not 0 <= least <= most:
            raise CorpusError(
                f"a range of operators is (least, most) with 0 <= least <= most, got ({least}, {most})"
            )
    if not same:
        _check_test_bins((low, high), (test_low, test_high), n_test)
    training = _Pool(f"with {low} to {high} operators", n_train + n_dev + (n_test if same else 0))
    share, n_larger = divmod(n_test, test_high - test_low + 1)
    testing = {
        number: _Pool(f"of bin {number} of the test", share + (number - test_low < n_larger))
        for number in (() if same else range(test_low, test_high + 1))
    }
    pools = (training, *testing.values())
    n_missing = sum(pool.wanted for pool in pools)
    stale = 0
    for pair in draw_pairs(seed):
        if not n_missing:
            break
        stale += 1
        if stale > _PATIENCE:
            lacking = " and ".join(
                f"{len(pool.pairs)} of {pool.wanted} different pairs {pool.what}"
                for pool in pools
                if len(pool.pairs) < pool.wanted
            )
            raise CorpusError(
                f"found only {lacking}, none in the last {stale - 1} draws; ask for fewer, or for wider ranges"
            )
        inside = low <= pair.n_operators <= high
        pool = training if inside else testing.get(bin_of(pair.n_operators))
        if pool is not None and len(pool.pairs) < pool.wanted and pair not in pool.pairs:
            pool.pairs[pair] = None
            n_missing -= 1
            stale = 0
    shuffler = random.Random(seed)
    pairs, test = list(training.pairs), [pair for pool in testing.values() for pair in pool.pairs]
    shuffler.shuffle(pairs)
    shuffler.shuffle(test)
    if same:
        test = pairs[n_train + n_dev :]
    parts = (("train", pairs[:n_train]), ("dev", pairs[n_train : n_train + n_dev]), ("test", test))
    train, dev, held_out = (corpus_of(part, name=f"logic-{name}", brackets=brackets) for name, part in parts)
    return train, dev, held_out


class _Pool:
    """Different pairs that are being collected, in the order in which they were drawn, and how many are wanted."""

    def __init__(self, what: str, wanted: int) -> None:
        self.what = what
        self.wanted = wanted
        self.pairs: dict[LogicPair, None] = {}


def _check_test_bins(operators: tuple[int, int], bins: tuple[int, int], n_test: int) -> None:
    """Refuse a test on other bins than the training's that cannot be generated."""
    (low, high), (first, last) = operators, bins
    if last > LAST_BIN:
        raise CorpusError(
            f"the bins of the test must be at most {LAST_BIN}, which takes longer pairs, too; got {bins}"
        )
    if first <= bin_of(high) and bin_of(low) <= last:
        raise CorpusError(
            f"the operators of training {operators} and test {bins} must be equal or not overlap"
        )
    n_bins = last - first + 1
    if n_test < n_bins:
        raise CorpusError(
            f"n_test must be at least {n_bins}, a pair for each bin from {first} to {last}, got {n_test}"
        )


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
        bins[bin_of(pair.n_operators)][pair] = None
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
