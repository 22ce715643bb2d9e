"""How well parses agree: F1 under named conventions, self-F1, recall by label, depth, trivial trees.

All trees compared here are binary and over the same tokens, so that precision, recall and F1 of a sentence
are one number: shared spans / spans. What still differs between publications is which spans count, and of
what the mean is taken; the same trees may score 16 or 40. A `Convention` settles both, and every score
carries the name of its own:

    nyu     mean over sentences; the root's span counts, punctuation is kept (Williams et al. 2018)
    prpn    mean over sentences; without the root, without punctuation (Shen et al. 2018)
    evalb   spans of the whole corpus pooled, the root's too, punctuation is kept

Spans of one token never count. A sentence in which nothing is left to count scores 1 where the mean is over
sentences, and adds nothing where spans are pooled. A change to a convention is written behind its name:
``nyu-root``, ``evalb-punctuation``, ``prpn+punctuation``. Scores are fractions of 1. No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlparse import trees
from rlparse.bracketings import Bracketings, Derivations, is_punctuation, key

__all__ = [
    "CONVENTIONS",
    "TRIVIAL_TREES",
    "Bracketings",
    "Convention",
    "LabelRecall",
    "LabelledPhrases",
    "ParseScore",
    "SelfScore",
    "SentenceScores",
    "find_convention",
    "is_punctuation",
    "mean_depth",
    "mean_height",
    "recall_by_label",
    "score_parses",
    "score_trivial_trees",
    "self_f1",
    "sentence_scores",
    "trivial_trees",
]


class Convention(NamedTuple):
    """Which spans count, and of what the mean is taken.

    Attributes:
        name: What every score under this convention is reported with.
        level: ``sentence``: mean of the sentences' scores; ``corpus``: one score of all spans pooled.
        root: Whether the span of the whole sentence counts, which every tree has right.
        punctuation: Whether punctuation tokens stay in the trees. If not, they are cut out of both trees.
    """

    name: str
    level: Literal["sentence", "corpus"]
    root: bool
    punctuation: bool

    def describe(self) -> str:
        """Spell the convention out in a few words."""
        return ", ".join(
            [
                "mean over sentences" if self.level == "sentence" else "spans of the corpus pooled",
                "root counts" if self.root else "root excluded",
                "punctuation kept" if self.punctuation else "punctuation removed",
            ]
        )


CONVENTIONS: dict[str, Convention] = {
    "nyu": Convention("nyu", "sentence", root=True, punctuation=True),
    "prpn": Convention("prpn", "sentence", root=False, punctuation=False),
    "evalb": Convention("evalb", "corpus", root=True, punctuation=True),
}
"""The conventions that have a name of their own."""


def find_convention(name: str | Convention, *, drop_punctuation: bool | None = None) -> Convention:
    """Look up ``nyu``, ``prpn``, ``evalb``, or one of them with changes: ``nyu-root``, ``prpn+punctuation``.

    Args:
        name: A name, possibly followed by changes: ``+`` or ``-``, then ``root`` or ``punctuation``.
        drop_punctuation: Where given, decides about punctuation; the name of the result says so.

    Raises:
        ValueError: There is no such convention, or a change that changes nothing.
    """
    if isinstance(name, Convention):
        convention = name
    else:
        words = name.replace("-", " -").replace("+", " +").split()
        known = f"{', '.join(CONVENTIONS)}, or one with changes such as nyu-root or prpn+punctuation"
        if not words or words[0] not in CONVENTIONS:
            raise ValueError(f"unknown convention {name!r}, expected {known}")
        convention = CONVENTIONS[words[0]]
        for word in words[1:]:
            part, wanted = word[1:], word[0] == "+"
            if part not in ("root", "punctuation"):
                raise ValueError(f"unknown change {word!r} in convention {name!r}, expected {known}")
            if getattr(convention, part) == wanted:
                state = "has" if wanted else "leaves out"
                raise ValueError(f"convention {name!r}: {convention.name} already {state} {part}")
            convention = _changed(convention, part, wanted)
    if drop_punctuation is not None and convention.punctuation == drop_punctuation:
        convention = _changed(convention, "punctuation", not drop_punctuation)
    return convention


def _changed(convention: Convention, part: str, wanted: bool) -> Convention:
    undo = ("-" if wanted else "+") + part
    if undo in convention.name:
        name = convention.name.replace(undo, "")
    else:
        name = convention.name + ("+" if wanted else "-") + part
    return convention._replace(
        name=name,
        root=wanted if part == "root" else convention.root,
        punctuation=wanted if part == "punctuation" else convention.punctuation,
    )


def _bracketings(parses: Bracketings | Derivations, tokens: Sequence[Sequence[str]] | None) -> Bracketings:
    return parses if isinstance(parses, Bracketings) else Bracketings(parses, tokens)


# --------------------------------------------------------------------------------------------------------- F1


class ParseScore(NamedTuple):
    """How well two sets of trees over the same sentences agree.

    Attributes:
        convention: Full name of the convention; never quote the number without it.
        f1: Unlabelled F1, a fraction of 1.
        exact_match: Share of sentences whose two trees are the same (after removing punctuation, if that is
            so).
        n_sentences: Sentences scored.
        n_skipped: Sentences left out because they hold only punctuation, and that is removed.
        n_spans: Spans that count, of all sentences.
        n_shared: How many of them both trees have.
    """

    convention: str
    f1: float
    exact_match: float
    n_sentences: int
    n_skipped: int
    n_spans: int
    n_shared: int

    def __str__(self) -> str:
        """Give the score as percentage with its convention."""
        return f"F1 {100 * self.f1:.2f} ({self.convention}, {self.n_sentences:,} sentences)"


def score_parses(
    predicted: Bracketings | Derivations,
    gold: Bracketings | Derivations,
    tokens: Sequence[Sequence[str]] | None = None,
    convention: str | Convention = "nyu",
    *,
    drop_punctuation: bool | None = None,
) -> ParseScore:
    """Score trees against gold trees, or any trees against any others (the score is symmetric).

    Sentence level: mean over sentences of |predicted ∩ gold| / |gold|, 1 where gold is empty. Corpus level:
    sum of |predicted ∩ gold| / sum of |gold|.

    Args:
        predicted: One complete derivation a sentence, or their `Bracketings`.
        gold: The same of the trees to compare with.
        tokens: Words of the sentences; needed only if punctuation is removed.
        convention: ``nyu``, ``prpn``, ``evalb``, or a variant such as ``nyu-root``.
        drop_punctuation: Where given, overrides what the convention says about punctuation.

    Returns:
        The score with the full name of its convention.

    Raises:
        ValueError: Unknown convention, no sentences, different sentences, or nothing to count.
        MalformedTreeError: A derivation is not one binary tree over its sentence.
    """
    rules = find_convention(convention, drop_punctuation=drop_punctuation)
    ours = _bracketings(predicted, tokens)
    found = sentence_scores(ours, _bracketings(gold, tokens), rules)
    n_sentences = int(found.scored.sum())
    n_spans, n_shared = int(found.n_spans.sum()), int(found.n_shared.sum())
    if n_sentences == 0:
        raise ValueError(
            f"no sentence to score: all {len(ours)} hold only punctuation, which {rules.name} removes"
        )
    if rules.level == "corpus" and n_spans == 0:
        raise ValueError(
            f"no span to score: none of {n_sentences} sentences has one that counts under {rules.name}"
        )
    values, weights = found.terms()
    return ParseScore(
        convention=rules.name,
        f1=float(values.sum()) / float(weights.sum()),
        exact_match=int(found.same.sum()) / n_sentences,
        n_sentences=n_sentences,
        n_skipped=len(ours) - n_sentences,
        n_spans=n_spans,
        n_shared=n_shared,
    )


class SentenceScores(NamedTuple):
    """What every sentence contributes to a `ParseScore`.

    Attributes:
        convention: The convention.
        n_spans: [n] int. Spans that count.
        n_shared: [n] int. How many of them both trees have.
        scored: [n] bool. False where the sentence holds only punctuation, and that is removed.
        same: [n] bool. Whether the two trees are the same.
    """

    convention: Convention
    n_spans: NDArray[np.int64]
    n_shared: NDArray[np.int64]
    scored: NDArray[np.bool_]
    same: NDArray[np.bool_]

    def terms(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give the terms of F1, which is sum(values) / sum(weights).

        Returns:
            [n] float values and [n] float weights: F1 and 1 of every sentence where the mean is over sentences,
            shared spans and spans where they are pooled.
        """
        if self.convention.level == "corpus":
            return self.n_shared.astype(np.float64), self.n_spans.astype(np.float64)
        empty = (self.n_spans == 0) & self.scored
        return self.n_shared / np.maximum(self.n_spans, 1) + empty, self.scored.astype(np.float64)


def sentence_scores(
    predicted: Bracketings | Derivations,
    gold: Bracketings | Derivations,
    convention: str | Convention = "nyu",
    tokens: Sequence[Sequence[str]] | None = None,
) -> SentenceScores:
    """Score trees sentence by sentence, for statistics that need more than the mean; see `score_parses`.

    Args:
        predicted: One complete derivation a sentence, or their `Bracketings`.
        gold: The same of the trees to compare with.
        convention: As in `score_parses`.
        tokens: Words of the sentences; needed only if punctuation is removed.

    Raises:
        ValueError: Unknown convention, no sentences, or different sentences.
        MalformedTreeError: A derivation is not one binary tree over its sentence.
    """
    rules = find_convention(convention)
    ours = _bracketings(predicted, tokens)
    theirs = _bracketings(gold, tokens)
    _check_same_sentences(ours, theirs)
    predicted_nodes = ours.nodes(punctuation=rules.punctuation)
    gold_nodes = theirs.nodes(punctuation=rules.punctuation)
    n_tokens = gold_nodes.n_tokens
    wrong = np.flatnonzero(predicted_nodes.n_tokens != n_tokens)
    if len(wrong):
        raise ValueError(
            f"sentence {wrong[0]}: {predicted_nodes.n_tokens[wrong[0]]} words are left without punctuation in "
            f"one set of trees, {n_tokens[wrong[0]]} in the other; their tokens differ"
        )
    scored = n_tokens > 0
    n_spans = np.maximum(n_tokens - 1, 0)
    n_shared = gold_nodes.n_shared(predicted_nodes)
    same = (n_shared == n_spans) & scored
    if not rules.root:  # which both trees have
        n_shared, n_spans = n_shared - (n_spans > 0), n_spans - (n_spans > 0)
    return SentenceScores(rules, n_spans, n_shared, scored, same)


class SelfScore(NamedTuple):
    """How well several runs agree with each other.

    Attributes:
        convention: Full name of the convention.
        f1: Mean F1 over all unordered pairs of runs, a fraction of 1.
        n_runs: How many runs were compared.
        pairs: The score of each pair, in the order (0, 1), (0, 2), …, (1, 2), ….
    """

    convention: str
    f1: float
    n_runs: int
    pairs: tuple[ParseScore, ...]


def self_f1(
    runs: Sequence[Bracketings | Derivations],
    tokens: Sequence[Sequence[str]] | None = None,
    convention: str | Convention = "nyu",
    *,
    drop_punctuation: bool | None = None,
) -> SelfScore:
    """Score how far runs find the same trees, whatever gold says: mean F1 over unordered pairs of runs.

    Args:
        runs: The trees of each run, over the same sentences in the same order.
        tokens: Words of the sentences; needed only if punctuation is removed.
        convention: As in `score_parses`.
        drop_punctuation: As in `score_parses`.

    Raises:
        ValueError: There are fewer than two runs, or as `score_parses`.
    """
    if len(runs) < 2:
        raise ValueError(f"self-F1 compares runs in pairs and needs at least 2 of them, got {len(runs)}")
    found = [_bracketings(run, tokens) for i, run in enumerate(runs)]
    rules = find_convention(convention, drop_punctuation=drop_punctuation)
    pairs = tuple(score_parses(a, b, None, rules) for a, b in combinations(found, 2))
    return SelfScore(rules.name, sum(pair.f1 for pair in pairs) / len(pairs), len(runs), pairs)


def _check_same_sentences(ours: Bracketings, theirs: Bracketings) -> None:
    if len(ours) != len(theirs):
        raise ValueError(f"got trees of {len(ours)} sentences to compare with trees of {len(theirs)}")
    if len(ours) == 0:
        raise ValueError("no sentence to score")
    if ours.n_tokens != theirs.n_tokens:
        lengths = zip(ours.n_tokens, theirs.n_tokens, strict=True)
        wrong = [(i, n, m) for i, (n, m) in enumerate(lengths) if n != m]
        i, n, m = wrong[0]
        raise ValueError(
            f"{len(wrong)} of {len(ours)} sentences differ in length, first sentence {i}: "
            f"{n} tokens, expected {m} as in the trees to compare with"
        )


# -------------------------------------------------------------------------------------------- recall by label


class LabelRecall(NamedTuple):
    """How many gold phrases of one label are nodes of the predicted trees.

    Attributes:
        convention: Full name of the convention that said which spans count.
        label: Label without function tags: ``NP-SBJ`` counts as ``NP``.
        n_gold: Gold phrases with this label.
        n_found: Those of them that the predicted trees have.
    """

    convention: str
    label: str
    n_gold: int
    n_found: int

    @property
    def recall(self) -> float:
        """The share found, a fraction of 1."""
        return self.n_found / self.n_gold


def recall_by_label(
    predicted: Bracketings | Derivations,
    labelled_spans: Sequence[Iterable[tuple[int, int, str]] | None],
    tokens: Sequence[Sequence[str]] | None = None,
    convention: str | Convention = "nyu",
    *,
    drop_punctuation: bool | None = None,
) -> dict[str, LabelRecall]:
    """Count by label (NP, VP, PP, …) which gold phrases the predicted trees have as nodes.

    Phrases of one token, and the ROOT or TOP above the sentence, never count; other phrases over the whole
    sentence do unless the convention excludes the root. Phrases are pooled over sentences, whatever the
    convention's level.

    Args:
        predicted: One complete derivation a sentence, or their `Bracketings`.
        labelled_spans: Gold phrases of each sentence, None where it has no labelled tree.
        tokens: Words of the sentences; needed only if punctuation is removed.
        convention: As in `score_parses`.
        drop_punctuation: As in `score_parses`.

    Returns:
        Label to counts, the most frequent label first.

    Raises:
        ValueError: Unknown convention, different sentences, or no labelled phrase at all.
        MalformedTreeError: A derivation is not one binary tree over its sentence.
    """
    rules = find_convention(convention, drop_punctuation=drop_punctuation)
    ours = _bracketings(predicted, tokens)
    return LabelledPhrases(labelled_spans, ours, rules).recall(ours)


class LabelledPhrases:
    """The gold phrases that count, found once, so that they can be looked up in the trees of several parsers.

    Args:
        labelled_spans: Gold phrases of each sentence, None where it has no labelled tree.
        parses: Any trees over the same sentences.
        convention: As in `score_parses`.

    Raises:
        ValueError: As `recall_by_label`.
    """

    def __init__(
        self,
        labelled_spans: Sequence[Iterable[tuple[int, int, str]] | None],
        parses: Bracketings,
        convention: str | Convention = "nyu",
    ) -> None:
        self.convention = rules = find_convention(convention)
        self._parses = parses
        if len(labelled_spans) != len(parses):
            raise ValueError(
                f"got trees of {len(parses)} sentences, but labelled spans of {len(labelled_spans)}"
            )
        n_left = parses.nodes(punctuation=rules.punctuation).n_tokens.tolist()
        places = parses.places(punctuation=rules.punctuation).tolist()
        offset = 0
        by_label: dict[str, list[int]] = {}
        for i, phrases in enumerate(labelled_spans):
            length = parses.n_tokens[i]
            counted = set()
            for start, end, label in phrases or ():
                if not 0 <= start < end <= length:
                    raise ValueError(
                        f"sentence {i} has {length} tokens, but the labelled span {(start, end, label)}"
                    )
                counted.add((places[offset + start], places[offset + end], _base_label(label)))
            offset += length
            for start, end, label in counted:
                everything = not rules.root and end - start == n_left[i]
                if end - start > 1 and not everything and label not in ("ROOT", "TOP"):
                    by_label.setdefault(label, []).append(key(start, end))
        if not by_label:
            raise ValueError(f"no labelled phrase to find under {rules.name} in {len(parses)} sentences")
        order = sorted(by_label, key=lambda label: (-len(by_label[label]), label))
        self._counts = {label: len(by_label[label]) for label in order}
        self._keys = np.concatenate([np.array(by_label[label], np.int64) for label in order])

    def recall(self, predicted: Bracketings) -> dict[str, LabelRecall]:
        """Count the phrases that trees over the same sentences have as nodes; see `recall_by_label`.

        Raises:
            ValueError: The trees are over other sentences.
        """
        _check_same_sentences(predicted, self._parses)
        nodes = predicted.nodes(punctuation=self.convention.punctuation).keys  # ascending
        places = np.minimum(np.searchsorted(nodes, self._keys), len(nodes) - 1)
        found = nodes[places] == self._keys
        labels = np.repeat(np.arange(len(self._counts)), list(self._counts.values()))
        n_found = np.bincount(labels[found], minlength=len(self._counts)).tolist()
        return {
            label: LabelRecall(self.convention.name, label, n_gold, n)
            for (label, n_gold), n in zip(self._counts.items(), n_found, strict=True)
        }


def _base_label(label: str) -> str:
    """Cut function tags and indices off: NP-SBJ-1 and NP=2 are NP; -LRB- stays."""
    return label if label.startswith("-") else re.split("[-=|]", label, maxsplit=1)[0]


# ----------------------------------------------------------------------------------------------------- shapes


def mean_depth(parses: Bracketings | Derivations) -> float:
    """Return the depth of a token (edges above it), averaged over a tree's tokens, then over the trees.

    Raises:
        ValueError: There are no trees.
        MalformedTreeError: A derivation is not one binary tree.
    """
    found = _bracketings(parses, None)
    if len(found) == 0:
        raise ValueError("mean depth needs at least 1 tree, got none")
    nodes = found.nodes(punctuation=True)
    # A token lies as deep as there are nodes that hold it: the depths add up to the lengths of the nodes.
    total = np.bincount(nodes.sentences, weights=nodes.lengths(), minlength=len(found))
    return float((total / nodes.n_tokens).mean())


def mean_height(derivations: Derivations) -> float:
    """Return the depth of the deepest token (`rlparse.trees.depth`), averaged over the trees.

    Raises:
        ValueError: There are no trees.
        MalformedTreeError: A derivation is not one binary tree.
    """
    if len(derivations) == 0:
        raise ValueError("mean height needs at least 1 tree, got none")
    return sum(trees.depth(derivation) for derivation in derivations) / len(derivations)


# ---------------------------------------------------------------------------------------------- trivial trees

_BY_LENGTH: dict[str, Callable[[int], list[int]]] = {
    "left": trees.left_branching,
    "right": trees.right_branching,
    "balanced_floor": lambda n: trees.balanced(n, "floor"),
    "balanced_ceil": lambda n: trees.balanced(n, "ceil"),
    "balanced_power_of_two": lambda n: trees.balanced(n, "power_of_two"),
}
_AT_RANDOM: dict[str, Callable[[int, np.random.Generator], list[int]]] = {
    "random_merges": trees.random_merges,
    "uniform": trees.uniform_tree,
}

TRIVIAL_TREES: tuple[str, ...] = (*_BY_LENGTH, *_AT_RANDOM)
"""Trees that know only a sentence's length. ``right_final_stop`` also looks at its last token."""

FINAL_STOPS = (".", "!", "?")
"""What ``right_final_stop`` attaches at the root, where a sentence ends with it."""


def trivial_trees(
    n_tokens: Sequence[int],
    *,
    seed: int = 0,
    tokens: Sequence[Sequence[str]] | None = None,
    kinds: Iterable[str] = TRIVIAL_TREES,
) -> dict[str, list[list[int]]]:
    """Build the trees that every parser has to be compared with.

    Args:
        n_tokens: Length of every sentence.
        seed: Of the random trees; each kind has a generator of its own.
        tokens: Words of the sentences; adds ``right_final_stop``, right-branching trees with a final full
            stop, exclamation or question mark attached at the root.
        kinds: Which of `TRIVIAL_TREES` are wanted; the random ones do not depend on the others.

    Returns:
        Kind of tree to one derivation a sentence.

    Raises:
        ValueError: A kind is unknown, a sentence has no token, or the tokens are of another number of
            sentences.
    """
    wanted = set(kinds)
    if unknown := sorted(wanted.difference(TRIVIAL_TREES)):
        raise ValueError(f"unknown trivial trees {unknown}; known: {', '.join(TRIVIAL_TREES)}")
    found: dict[str, list[list[int]]] = {}
    for name, build in _BY_LENGTH.items():
        if name in wanted:
            of_length = {n: build(n) for n in set(n_tokens)}
            found[name] = [of_length[n] for n in n_tokens]
    for offset, (name, draw) in enumerate(_AT_RANDOM.items()):
        if name in wanted:
            rng = np.random.default_rng([seed, offset])
            found[name] = [draw(n, rng) for n in n_tokens]
    if tokens is not None:
        if len(tokens) != len(n_tokens):
            raise ValueError(f"got the lengths of {len(n_tokens)} sentences, but the tokens of {len(tokens)}")
        found["right_final_stop"] = [
            trees.right_branching(len(words), final_at_root=words[-1] in FINAL_STOPS) for words in tokens
        ]
    return found


def score_trivial_trees(
    gold: Bracketings | Derivations,
    tokens: Sequence[Sequence[str]] | None = None,
    convention: str | Convention = "nyu",
    *,
    seed: int = 0,
    drop_punctuation: bool | None = None,
) -> dict[str, ParseScore]:
    """Score every kind of trivial tree against gold trees, or against the trees of a parser.

    Args:
        gold: The trees to compare with.
        tokens: Words of the sentences; needed if punctuation is removed, and for ``right_final_stop``.
        convention: As in `score_parses`.
        seed: Of the random trees.
        drop_punctuation: As in `score_parses`.

    Raises:
        ValueError: As `score_parses`.
        MalformedTreeError: As `score_parses`.
    """
    theirs = _bracketings(gold, tokens)
    rules = find_convention(convention, drop_punctuation=drop_punctuation)
    kinds = trivial_trees(theirs.n_tokens, seed=seed, tokens=theirs.tokens)
    return {
        name: score_parses(Bracketings(derivations, theirs.tokens), theirs, None, rules)
        for name, derivations in kinds.items()
    }
