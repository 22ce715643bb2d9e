"""The shift-reduce game for one sentence: two transitions, the rule of their legality, the parser state.

`legal_transitions` is the one rule of legality; environment, policy, stack machine and tests all use it. The
batched twin of `ParserState` is `rlparse.lockstep`. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from rlparse import PAD
from rlparse.errors import IllegalTransitionError

__all__ = ["ParserState", "Transition", "legal_transitions"]

_SHOWN_IN_ERRORS = 8


class Transition(IntEnum):
    """What a parser can do: move the next token onto the stack, or join the two topmost trees."""

    SHIFT = 0
    REDUCE = 1


def legal_transitions(stack_size: int, buffer_size: int) -> tuple[bool, bool]:
    """Say whether SHIFT (needs a token in the buffer) and REDUCE (needs two trees on the stack) are legal.

    Every sequence of legal transitions that ends with neither being legal is one binary tree over the
    sentence, and every binary tree is reached by exactly one such sequence (its derivation).
    """
    return buffer_size > 0, stack_size >= 2


class ParserState:
    """Stack and buffer of one sentence, and the tree built so far.

    Trees are named by node ids: 0 .. n-1 are the tokens, and the j-th REDUCE creates node n + j. Applying a
    transition takes constant time and either happens completely or, where it is illegal, not at all.

    Attributes:
        n_tokens: Length n of the sentence.
        buffer_front: Index of the next token to shift; n when the buffer is empty.

    Raises:
        ValueError: The sentence has no token.

    Example:
        >>> state = ParserState(3)
        >>> for transition in (Transition.SHIFT, Transition.SHIFT, Transition.REDUCE):
        ...     state.apply(transition)
        >>> list(state.stack), state.spans[3], state.legal
        ([3], (0, 2), (True, False))
    """

    def __init__(self, n_tokens: int) -> None:
        if n_tokens < 1:
            raise ValueError(f"a sentence to parse needs at least 1 token, got {n_tokens}")
        self.n_tokens = n_tokens
        self.buffer_front = 0
        self._stack: list[int] = []
        self._transitions: list[Transition] = []
        self._children: list[tuple[int, int]] = []
        self._spans: list[tuple[int, int]] = [(i, i + 1) for i in range(n_tokens)]

    @property
    def stack(self) -> Sequence[int]:
        """Node ids on the stack, bottom first."""
        return self._stack

    @property
    def transitions(self) -> Sequence[Transition]:
        """The transitions applied so far: the derivation, once the state is terminal."""
        return self._transitions

    @property
    def children(self) -> Sequence[tuple[int, int]]:
        """``children[j]`` are the node ids (left, right) that the j-th REDUCE joined into node n + j."""
        return self._children

    @property
    def spans(self) -> Sequence[tuple[int, int]]:
        """``spans[node]`` is the (start, end) of a node, leaves included."""
        return self._spans

    @property
    def stack_size(self) -> int:
        """How many trees are on the stack."""
        return len(self._stack)

    @property
    def buffer_size(self) -> int:
        """How many tokens are not shifted yet."""
        return self.n_tokens - self.buffer_front

    @property
    def step(self) -> int:
        """How many transitions were applied."""
        return len(self._transitions)

    @property
    def legal(self) -> tuple[bool, bool]:
        """Whether SHIFT and REDUCE are legal now."""
        return legal_transitions(self.stack_size, self.buffer_size)

    @property
    def is_terminal(self) -> bool:
        """Whether one tree covers the sentence, so that nothing is legal any more."""
        return not any(self.legal)

    def apply(self, transition: int) -> None:
        """Shift the next token, or reduce the two topmost trees to one.

        Raises:
            IllegalTransitionError: The transition is not legal now, or no transition at all; nothing changed.
        """
        if transition not in (Transition.SHIFT, Transition.REDUCE):
            padding = " (padding)" if transition == PAD else ""
            raise IllegalTransitionError(
                f"expected SHIFT (0) or REDUCE (1) at step {self.step}, got {transition!r}{padding}"
            )
        may_shift, may_reduce = self.legal
        if transition == Transition.SHIFT:
            if not may_shift:
                raise IllegalTransitionError(
                    f"SHIFT at step {self.step} needs a token in the buffer, but all {self.n_tokens} are "
                    f"shifted (transitions so far: {self._history()})"
                )
            self._stack.append(self.buffer_front)
            self.buffer_front += 1
            self._transitions.append(Transition.SHIFT)
            return
        if not may_reduce:
            raise IllegalTransitionError(
                f"REDUCE at step {self.step} needs 2 items on the stack, found {self.stack_size} "
                f"(transitions so far: {self._history()})"
            )
        right = self._stack.pop()
        left = self._stack.pop()
        self._stack.append(self.n_tokens + len(self._children))
        self._children.append((left, right))
        self._spans.append((self._spans[left][0], self._spans[right][1]))
        self._transitions.append(Transition.REDUCE)

    def _history(self) -> str:
        names = [t.name for t in self._transitions[-_SHOWN_IN_ERRORS:]]
        earlier = len(self._transitions) - len(names)
        return f"{names}" if not earlier else f"{earlier} more, then {names}"

    def __repr__(self) -> str:
        trees = [self._spans[node] for node in self._stack]
        return f"ParserState(step={self.step}, stack={trees}, buffer={self.buffer_front}..{self.n_tokens})"
