"""Transitions: what is legal, what they build, and that an illegal one changes nothing."""

from __future__ import annotations

import time
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlparse import PAD
from rlparse.errors import IllegalTransitionError
from rlparse.transitions import ParserState, Transition, legal_transitions

SHIFT, REDUCE = Transition.SHIFT, Transition.REDUCE


def snapshot(state: ParserState) -> tuple:
    return (
        list(state.stack),
        state.buffer_front,
        state.buffer_size,
        list(state.transitions),
        list(state.children),
        list(state.spans),
        state.step,
    )


def parsed(n_tokens: int, transitions: list[int]) -> ParserState:
    state = ParserState(n_tokens)
    for transition in transitions:
        state.apply(transition)
    return state


def test_transitions_have_the_values_that_derivations_hold():
    assert (SHIFT, REDUCE) == (0, 1)
    assert list(Transition) == [0, 1]
    assert PAD == 2


@pytest.mark.parametrize(
    ("stack_size", "buffer_size", "expected"),
    [
        (0, 3, (True, False)),
        (1, 2, (True, False)),
        (2, 1, (True, True)),
        (3, 0, (False, True)),
        (2, 0, (False, True)),
        (1, 0, (False, False)),
    ],
)
def test_shift_needs_a_token_and_reduce_two_trees(stack_size, buffer_size, expected):
    assert legal_transitions(stack_size, buffer_size) == expected


def test_state_follows_a_hand_made_derivation():
    # ( ( a b ) ( c d ) ): nodes 4 = (a b), 5 = (c d), 6 = the root
    state = ParserState(4)
    assert (list(state.stack), state.buffer_front, state.legal) == ([], 0, (True, False))
    stacks = []
    for transition in (SHIFT, SHIFT, REDUCE, SHIFT, SHIFT, REDUCE, REDUCE):
        assert not state.is_terminal
        state.apply(transition)
        stacks.append(list(state.stack))
    assert stacks == [[0], [0, 1], [4], [4, 2], [4, 2, 3], [4, 5], [6]]
    assert list(state.children) == [(0, 1), (2, 3), (4, 5)]
    assert list(state.spans) == [(0, 1), (1, 2), (2, 3), (3, 4), (0, 2), (2, 4), (0, 4)]
    assert list(state.transitions) == [0, 0, 1, 0, 0, 1, 1]
    assert (state.step, state.buffer_size, state.buffer_front, state.stack_size) == (7, 0, 4, 1)
    assert state.is_terminal
    assert state.legal == (False, False)


def test_one_token_is_a_tree_after_one_shift():
    state = ParserState(1)
    assert not state.is_terminal
    state.apply(SHIFT)
    assert state.is_terminal
    assert list(state.stack) == [0]


def test_repr_shows_the_spans_on_the_stack():
    assert repr(parsed(3, [SHIFT, SHIFT, REDUCE])) == "ParserState(step=3, stack=[(0, 2)], buffer=2..3)"


def test_plain_integers_are_transitions():
    assert list(parsed(2, [0, 0, 1]).transitions) == [SHIFT, SHIFT, REDUCE]


@pytest.mark.parametrize(
    ("n_tokens", "before", "transition", "message"),
    [
        (3, [], REDUCE, r"REDUCE at step 0 needs 2 items on the stack, found 0 \(transitions so far: \[\]\)"),
        (3, [0], REDUCE, r"REDUCE at step 1 needs 2 items on the stack, found 1 .*so far: \['SHIFT'\]"),
        (2, [0, 0], SHIFT, r"SHIFT at step 2 needs a token in the buffer, but all 2 are shifted .*'SHIFT'\]"),
        (1, [0], SHIFT, r"SHIFT at step 1 needs a token in the buffer, but all 1 are shifted"),
        (2, [0], PAD, r"expected SHIFT \(0\) or REDUCE \(1\) at step 1, got 2 \(padding\)"),
        (2, [0], -1, r"expected SHIFT \(0\) or REDUCE \(1\) at step 1, got -1$"),
        (12, [0] * 12, SHIFT, r"so far: 4 more, then \['SHIFT'(, 'SHIFT'){7}\]\)"),
    ],
)
def test_illegal_transition_says_why_and_changes_nothing(n_tokens, before, transition, message):
    state = parsed(n_tokens, before)
    unchanged = snapshot(state)
    with pytest.raises(IllegalTransitionError, match=message):
        state.apply(transition)
    assert snapshot(state) == unchanged


@pytest.mark.parametrize("n_tokens", [0, -1])
def test_sentence_without_tokens_is_refused(n_tokens):
    with pytest.raises(ValueError, match=f"at least 1 token, got {n_tokens}"):
        ParserState(n_tokens)


@pytest.mark.parametrize("n_tokens", range(1, 9))
def test_legal_sequences_are_as_many_as_binary_trees(n_tokens):
    """Follow every legal path: each ends after 2n - 1 steps, and they make Catalan(n - 1) different trees."""
    finished, paths = set(), [[]]
    while paths:
        path = paths.pop()
        state = parsed(n_tokens, path)
        if state.is_terminal:
            assert state.step == 2 * n_tokens - 1
            assert state.spans[-1] == (0, n_tokens)
            finished.add(tuple(sorted(state.spans[n_tokens:])))
        else:
            paths += [[*path, t] for t, may in zip((SHIFT, REDUCE), state.legal, strict=True) if may]
    assert len(finished) == comb(2 * n_tokens - 2, n_tokens - 1) // n_tokens


@given(n_tokens=st.integers(1, 30), choices=st.lists(st.sampled_from([0, 1, 2]), min_size=60, max_size=60))
def test_any_choices_keep_the_invariants(n_tokens, choices):
    state = ParserState(n_tokens)
    for choice in choices:
        before = snapshot(state)
        allowed = choice < 2 and state.legal[choice]
        if allowed:
            state.apply(choice)
            assert state.step == before[-1] + 1
        else:
            with pytest.raises(IllegalTransitionError, match="at step"):
                state.apply(choice)
            assert snapshot(state) == before
        # The trees on the stack cover the shifted tokens from left to right, without gap.
        covered = [state.spans[node] for node in state.stack]
        assert [start for start, _ in covered] == [0, *(end for _, end in covered)][: len(covered)]
        assert (covered[-1][1] if covered else 0) == state.buffer_front


def test_long_sentence_is_parsed_in_linear_time():
    n = 10_000
    started = time.process_time()
    left = parsed(n, [SHIFT] + [SHIFT, REDUCE] * (n - 1))
    right = parsed(n, [SHIFT] * n + [REDUCE] * (n - 1))
    assert time.process_time() - started < 5
    assert left.is_terminal
    assert right.is_terminal
    assert left.spans[-2] == (0, n - 1)
    assert right.spans[-2] == (1, n)
