"""What lies on a parser's stack, in Python lists, and of what kind it is, told by counting brackets. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

Span = tuple[int, int]


def states(derivation: Sequence[int]) -> Iterator[tuple[int, Span, Span, bool]]:
    """Play a derivation: step, top, second and whether a word is left, wherever two items lie on the stack."""
    n_words = (len(derivation) + 1) // 2
    stack: list[Span] = []
    position = 0
    for step, transition in enumerate(derivation):
        if len(stack) >= 2:
            yield step, stack[-1], stack[-2], position < n_words
        if transition == 0:
            stack.append((position, position + 1))
            position += 1
        else:
            stack[-2:] = [(stack[-2][0], stack[-1][1])]


def kind_teller(names: Sequence[str]) -> Callable[[Sequence[str], Span], str]:
    """Tell kinds where sentences show their brackets; ``names`` of the opening, other and closing words."""

    def kind(words: Sequence[str], span: Span) -> str:
        start, end = span
        depth = [0]
        for word in words[start:end]:
            depth.append(depth[-1] + (word[0] in "[(") - (word in ("]", ")")))
        if end - start == 1:
            return names[{1: 0, 0: 1, -1: 2}[depth[-1]]]
        if words[start][0] not in "[(" or 0 in depth[1:-1]:
            return "other"
        return "closed" if depth[-1] == 0 else "open"

    return kind


def plain_kind(words: Sequence[str], span: Span) -> str:
    """Tell kinds where they show none."""
    del words
    return "word" if span[1] - span[0] == 1 else "phrase"
