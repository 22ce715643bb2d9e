"""Trees as text: learned beside gold."""

from __future__ import annotations

from collections.abc import Sequence

from rlparse.corpora.corpus import Corpus
from rlparse.transitions import ParserState
from rlparse_envs.rendering import draw_tree


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
    """Choose (example, side) of the first n sentences that are neither trivial nor too long to look at."""
    chosen: list[tuple[int, int]] = []
    lengths = corpus.lengths
    for wide in (False, True):
        for i in range(len(corpus)):
            for side in range(corpus.n_sides):
                if len(chosen) == n:
                    return chosen
                fits = wide or shortest <= lengths[i, side] <= longest
                if fits and (i, side) not in chosen:
                    chosen.append((i, side))
                    break
    return chosen


def tree_samples(corpus: Corpus, derivations: Sequence[Sequence[int]], n: int) -> str:
    """Draw the learned parses of n sentences, beside gold where it is known, as text for TensorBoard (Markdown)."""
    return "\n\n".join(f"```\n{sample}\n```" for sample in draw_samples(corpus, derivations, n))


def draw_samples(corpus: Corpus, derivations: Sequence[Sequence[int]], n: int) -> list[str]:
    """Draw the learned parses of n sentences, beside gold where it is known."""
    drawings = []
    for i, side in sample_sentences(corpus, n):
        sentence = corpus.sentence(i, side)
        learned = tree_drawing(sentence.tokens, derivations[i * corpus.n_sides + side])
        if sentence.transitions is None:
            drawings.append("learned\n" + learned)
        else:
            gold = tree_drawing(sentence.tokens, sentence.transitions)
            drawings.append(side_by_side(learned, gold, ("learned", "gold")))
    return drawings
