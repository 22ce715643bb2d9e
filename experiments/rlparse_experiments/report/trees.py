"""Trees as text: learned beside gold."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from rlparse.corpora.corpus import Corpus
from rlparse.transitions import ParserState
from rlparse_envs.rendering import bracketed, draw_tree


def tree_drawing(tokens: Sequence[str], transitions: Sequence[int]) -> str:
    """Draw one complete tree to the right of its tokens."""
    parser = ParserState(len(tokens))
    for transition in transitions:
        parser.apply(transition)
    lines = draw_tree(parser, tokens).splitlines()
    return "\n".join(line.removesuffix("╴0").rstrip()[3:] for line in lines)


def side_by_side(left: str, right: str, titles: tuple[str, str], gap: int = 4) -> str:
    """Set two drawings beside each other under their titles."""
    ours, theirs = [titles[0], *left.splitlines()], [titles[1], *right.splitlines()]
    width = max(map(len, ours)) + gap
    height = max(len(ours), len(theirs))
    ours += [""] * (height - len(ours))
    theirs += [""] * (height - len(theirs))
    return "\n".join((a.ljust(width) + b).rstrip() for a, b in zip(ours, theirs, strict=True))


def sample_sentences(
    corpus: Corpus, n: int, *, shortest: int = 5, longest: int = 14
) -> list[tuple[int, int]]:
    """Choose (example, side) of the first n different sentences, at most one an example to begin with.

    Those that are neither trivial nor too long to look at come first. Premises come with several hypotheses: no
    sentence is chosen twice.
    """
    chosen: dict[tuple[str, ...], tuple[int, int]] = {}
    lengths = corpus.lengths
    for wide in (False, True):
        for i in range(len(corpus)):
            for side in range(corpus.n_sides):
                if len(chosen) == n:
                    return list(chosen.values())
                words = corpus.sentence(i, side).tokens
                if words not in chosen and (wide or shortest <= lengths[i, side] <= longest):
                    chosen[words] = (i, side)
                    break
    return list(chosen.values())


def tree_samples(corpus: Corpus, derivations: Sequence[Sequence[int]], n: int) -> str:
    """Draw the learned parses of n sentences, beside gold where it is known, as text for TensorBoard (Markdown)."""
    return "\n\n".join(f"```\n{sample}\n```" for sample in draw_samples(corpus, derivations, n))


def draw_samples(
    corpus: Corpus, derivations: Sequence[Sequence[int]], n: int, *, width: int = 100
) -> list[str]:
    """Draw the learned parses of n sentences, beside gold where it is known and there is room.

    Args:
        corpus: Whose sentences were parsed.
        derivations: One a sentence, example by example, side by side.
        n: Sentences to draw.
        width: Columns there are.
    """
    samples = []
    for i, side in sample_sentences(corpus, n):
        sentence = corpus.sentence(i, side)
        trees = {"learned": derivations[i * corpus.n_sides + side]}
        if sentence.transitions is not None:
            trees["gold"] = sentence.transitions
        samples.append(_fitting(sentence.tokens, trees, width))
    return samples


def _fitting(tokens: Sequence[str], trees: Mapping[str, Sequence[int]], width: int) -> str:
    """Set trees of one sentence side by side, else one below the other; a tree too wide to draw is bracketed."""
    drawings = {name: tree_drawing(tokens, transitions) for name, transitions in trees.items()}
    if len(drawings) == 2:
        (first, left), (second, right) = drawings.items()
        together = side_by_side(left, right, (first, second))
        if _width(together) <= width:
            return together
    parts = []
    for name, drawing in drawings.items():
        if _width(drawing) > width:
            drawing = textwrap.fill(
                bracketed(tokens, trees[name]), width, break_on_hyphens=False, break_long_words=False
            )
        parts.append(f"{name}\n{drawing}")
    return "\n".join(parts)


def _width(text: str) -> int:
    return max(map(len, text.splitlines()))
