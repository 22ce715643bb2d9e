"""The lockstep parser: a batch of `ParserState`s, advanced together."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlparse import lockstep, parse_scores
from rlparse.errors import IllegalTransitionError, MalformedTreeError
from rlparse.lockstep import LockstepState
from rlparse.transitions import ParserState
from slow_reference import (
    PAD,
    REDUCE,
    SHIFT,
    all_derivations,
    catalan,
    completions,
    padded,
    random_derivation,
)

pytestmark = pytest.mark.usefixtures("kernels")


def batch_of(lengths: list[int], seed: int, extra: int = 0) -> tuple[list[list[int]], Tensor, Tensor, int]:
    """Random derivations as lists and as a padded tensor, their lengths, and N."""
    rng = torch.Generator().manual_seed(seed)
    derivations = [random_derivation(n, rng) for n in lengths]
    n_tokens = max(lengths) + extra
    return derivations, padded(derivations, n_tokens), torch.tensor(lengths), n_tokens


def node_name(node: int, n: int, n_tokens: int) -> int:
    """Node ids of `ParserState` begin inner nodes at n, those of a padded batch at N."""
    return node if node < n else node - n + n_tokens


def same_state(state: LockstepState, row: int, parser: ParserState, n_tokens: int) -> None:
    """Every field of one row says what the readable parser says."""
    n = parser.n_tokens
    assert int(state.lengths[row]) == n
    assert int(state.stack_sizes[row]) == len(parser.stack)
    assert state.stack[row, : len(parser.stack)].tolist() == [
        node_name(node, n, n_tokens) for node in parser.stack
    ]
    assert int(state.buffer_front[row]) == parser.buffer_front
    made = len(parser.children)
    assert int(state.n_reduced[row]) == made
    assert state.children[row, :made].tolist() == [
        [node_name(child, n, n_tokens) for child in pair] for pair in parser.children
    ]
    assert (state.children[row, made:] == -1).all()
    assert bool(state.finished[row]) == parser.is_terminal
    assert lockstep.legal(state)[row].tolist() == list(parser.legal)
    front = parser.buffer_front if parser.buffer_size else -1
    first = node_name(parser.stack[-1], n, n_tokens) if len(parser.stack) >= 1 else -1
    second = node_name(parser.stack[-2], n, n_tokens) if len(parser.stack) >= 2 else -1
    assert lockstep.tops(state)[row].tolist() == [front, first, second]


# ---------------------------------------------------------------------------------------- equal to ParserState

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@settings(max_examples=25)
@given(LENGTHS, st.integers(0, 10**6), st.integers(0, 2))
def test_every_row_moves_as_its_own_parser_does(lengths, seed, extra):
    derivations, transitions, tensor_lengths, n_tokens = batch_of(lengths, seed, extra)
    parsers = [ParserState(n) for n in lengths]
    checked = lockstep.init(tensor_lengths, n_tokens)
    in_place = lockstep.init(tensor_lengths, n_tokens)
    for t in range(2 * n_tokens - 1):
        for row, parser in enumerate(parsers):
            same_state(checked, row, parser, n_tokens)
            same_state(in_place, row, parser, n_tokens)
        checked = lockstep.apply(checked, transitions[:, t])
        lockstep.apply_(in_place, transitions[:, t])
        for parser, derivation in zip(parsers, derivations, strict=True):
            if t < len(derivation):
                parser.apply(derivation[t])
    assert all(parser.is_terminal for parser in parsers)
    assert checked.finished.all()
    assert in_place.finished.all()
    assert torch.equal(checked.children, in_place.children)


@settings(max_examples=25)
@given(LENGTHS, st.integers(0, 10**6), st.integers(0, 2))
def test_trace_says_what_every_parser_saw_and_built(lengths, seed, extra):
    derivations, transitions, tensor_lengths, n_tokens = batch_of(lengths, seed, extra)
    trace = lockstep.trace(transitions, tensor_lengths)
    state = lockstep.init(tensor_lengths, n_tokens)
    for row, (n, derivation) in enumerate(zip(lengths, derivations, strict=True)):
        parser = ParserState(n)
        steps, heights = [], [0] * n
        state = lockstep.init(torch.tensor([n]), n_tokens)
        for t, transition in enumerate(derivation):
            assert trace.legal[row, t].tolist() == list(parser.legal)
            assert torch.equal(trace.tops[row, t], lockstep.tops(state)[0])
            parser.apply(transition)
            state = lockstep.apply(state, torch.tensor([transition]))
            if transition == REDUCE:
                left, right = parser.children[-1]
                heights.append(1 + max(heights[left], heights[right]))
                steps.append(t)
        blank = n_tokens - n
        assert trace.steps[row].tolist() == steps + [-1] * blank
        assert trace.heights[row].tolist() == heights[n:] + [0] * blank
        assert torch.equal(trace.children[row], state.children[0])
        assert not trace.legal[row, len(derivation) :].any()
    assert torch.equal(trace.lengths, tensor_lengths)


def test_a_hand_made_derivation():
    # ( a ( b c ) ) over 3 tokens, in a batch padded to 4: inner nodes begin at 4
    transitions = torch.tensor([[SHIFT, SHIFT, SHIFT, REDUCE, REDUCE, PAD, PAD]])
    trace = lockstep.trace(transitions, torch.tensor([3]))
    assert trace.children.tolist() == [[[1, 2], [0, 4], [-1, -1]]]
    assert trace.steps.tolist() == [[3, 4, -1]]
    assert trace.heights.tolist() == [[1, 2, 0]]
    assert trace.tops[0].tolist() == [
        [0, -1, -1],
        [1, 0, -1],
        [2, 1, 0],
        [-1, 2, 1],
        [-1, 4, 0],
        [-1, 5, -1],
        [-1, 5, -1],
    ]


def test_one_token_is_finished_after_its_shift():
    state = lockstep.init(torch.tensor([1, 1]), 1)
    assert state.children.shape == (2, 0, 2)
    assert lockstep.legal(state).tolist() == [[True, False]] * 2
    state = lockstep.apply(state, torch.tensor([SHIFT, PAD]))
    assert state.finished.tolist() == [True, False]
    assert lockstep.tops(state).tolist() == [[-1, 0, -1], [0, -1, -1]]
    trace = lockstep.trace(torch.tensor([[SHIFT]]), torch.tensor([1]))
    assert trace.steps.shape == trace.heights.shape == (1, 0)
    assert trace.tops.tolist() == [[[0, -1, -1]]]


def test_pad_leaves_a_row_as_it_is():
    """Wherever the parser stands, even with a full stack, PAD changes nothing that carries meaning."""
    for derivation in all_derivations(5):
        parser = ParserState(5)
        state = lockstep.init(torch.tensor([5]), 5)
        for transition in derivation:
            rested = lockstep.apply(state, torch.tensor([PAD]))
            same_state(rested, 0, parser, 5)
            state = lockstep.apply(rested, torch.tensor([transition]))
            parser.apply(transition)
        same_state(lockstep.apply(state, torch.tensor([PAD])), 0, parser, 5)


@settings(max_examples=25)
@given(LENGTHS, st.integers(0, 10**6))
def test_apply_leaves_the_old_state_untouched(lengths, seed):
    _, transitions, tensor_lengths, n_tokens = batch_of(lengths, seed)
    state = lockstep.init(tensor_lengths, n_tokens)
    for t in range(2 * n_tokens - 1):
        before = [field.clone() for field in state]
        after = lockstep.apply(state, transitions[:, t])
        assert all(torch.equal(old, field) for old, field in zip(before, state, strict=True))
        shared = {field.data_ptr() for field in state[1:]} & {field.data_ptr() for field in after[1:]}
        assert not shared - {0}
        state = after


def test_trace_leaves_its_inputs_untouched():
    _, transitions, lengths, _ = batch_of([3, 5, 1], 0)
    kept = transitions.clone(), lengths.clone()
    lockstep.trace(transitions, lengths)
    assert torch.equal(transitions, kept[0])
    assert torch.equal(lengths, kept[1])


def test_trace_takes_small_integers():
    _, transitions, lengths, _ = batch_of([3, 5, 1], 0)
    wide, narrow = (lockstep.trace(transitions.to(kind), lengths) for kind in (torch.int64, torch.uint8))
    assert all(torch.equal(a, b) for a, b in zip(wide, narrow, strict=True))


def test_long_chains():
    n = 400
    left = [SHIFT] + [SHIFT, REDUCE] * (n - 1)
    right = [SHIFT] * n + [REDUCE] * (n - 1)
    trace = lockstep.trace(torch.tensor([left, right]), torch.tensor([n, n]))
    assert trace.heights[0].tolist() == trace.heights[1].tolist() == list(range(1, n))


# ------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([3, 0, 2], r"lengths must be from 1 to 3, got 0 in row 1"),
        ([3, 4], r"lengths must be from 1 to 3, got 4 in row 1"),
        ([-1], r"lengths must be from 1 to 3, got -1 in row 0"),
    ],
)
def test_lengths_must_fit_the_batch(lengths, message):
    with pytest.raises(ValueError, match=message):
        lockstep.init(torch.tensor(lengths), 3)


def test_apply_says_which_row_broke_which_rule():
    state = lockstep.init(torch.tensor([2, 2, 2]), 2)
    with pytest.raises(
        IllegalTransitionError, match=r"^row 1: REDUCE at step 0 needs 2 items on the stack, found 0$"
    ):
        lockstep.apply(state, torch.tensor([SHIFT, REDUCE, REDUCE]))
    for actions in ([SHIFT, PAD, SHIFT], [SHIFT, PAD, SHIFT]):
        state = lockstep.apply(state, torch.tensor(actions))
    before = [field.clone() for field in state]
    with pytest.raises(
        IllegalTransitionError,
        match=r"^row 2: SHIFT at step 2 needs a token in the buffer, all 2 are shifted$",
    ):
        lockstep.apply(state, torch.tensor([REDUCE, SHIFT, SHIFT]))
    assert all(torch.equal(old, field) for old, field in zip(before, state, strict=True))
    state = lockstep.apply(state, torch.tensor([REDUCE, PAD, REDUCE]))
    for action, rule in ((SHIFT, "SHIFT at step 3"), (REDUCE, "REDUCE at step 3 .* found 1")):
        with pytest.raises(IllegalTransitionError, match=f"row 0: {rule}"):
            lockstep.apply(state, torch.tensor([action, PAD, PAD]))


@pytest.mark.parametrize(
    ("transitions", "lengths", "message"),
    [
        ([[0, 0, 1, 2]], [2], r"must be \[R, 2N - 1\] and lengths \[R\], got \(1, 4\)"),
        ([[0, 0, 1]], [2, 2], r"must be \[R, 2N - 1\] and lengths \[R\], got \(1, 3\)"),
        ([0, 0, 1], [2], r"must be \[R, 2N - 1\] and lengths \[R\], got \(3,\)"),
        ([[0, 0, 1]], [3], r"lengths must be from 1 to 2, got 3 in row 0"),
        ([[0, 0, 1], [0, 3, 1]], [2, 2], r"PAD\), found 3 in row 1 at step 1"),
        ([[0, 0, 1], [0, -1, 1]], [2, 2], r"PAD\), found -1 in row 1 at step 1"),
    ],
)
def test_trace_says_what_is_wrong_with_the_tensor(transitions, lengths, message):
    with pytest.raises(ValueError, match=message):
        lockstep.trace(torch.tensor(transitions), torch.tensor(lengths))


@pytest.mark.parametrize(
    ("row", "n", "message"),
    [
        ([1, 0, 0, 0, 1], 3, "row 1: REDUCE at step 0 needs 2 items on the stack, found 0"),
        ([0, 1, 0, 0, 1], 3, "row 1: REDUCE at step 1 needs 2 items on the stack, found 1"),
        ([0, 0, 0, 0, 1], 3, "row 1: SHIFT at step 3 needs a token in the buffer, all 3 are shifted"),
        ([0, 0, 1, 0, 1], 2, "row 1: SHIFT at step 3 needs a token in the buffer, all 2 are shifted"),
        ([0, 0, 1, 1, 2], 2, "row 1: REDUCE at step 3 needs 2 items on the stack, found 1"),
    ],
)
def test_trace_says_where_a_transition_is_illegal(row, n, message):
    with pytest.raises(IllegalTransitionError, match=f"^{message}$"):
        lockstep.trace(torch.tensor([[0, 0, 1, 0, 1], row]), torch.tensor([3, n]))


@pytest.mark.parametrize(
    ("row", "left"),
    [
        ([0, 0, 1, 2, 2], 1),  # the third token is missing
        ([0, 0, 0, 1, 2], 2),  # the last REDUCE is missing
        ([2, 2, 2, 2, 2], 0),  # nothing at all
        ([0, 0, 2, 0, 1], 2),  # a gap, and too short
    ],
)
def test_trace_says_which_rows_are_incomplete(row, left):
    message = (
        rf"1 of 2 derivations are not 2n - 1 transitions .* followed by PAD: rows 1 \({left} items left\)"
    )
    with pytest.raises(MalformedTreeError, match=message):
        lockstep.trace(torch.tensor([[0, 0, 1, 0, 1], row]), torch.tensor([3, 3]))


def test_trace_refuses_padding_in_the_middle():
    with pytest.raises(MalformedTreeError, match=r"followed by PAD: rows 0 \(1 items left\)"):
        lockstep.trace(torch.tensor([[0, 0, 2, 1, 2]]), torch.tensor([2]))


# -------------------------------------------------------------------------------------------------- the prior


def log_prob_of_prior(derivation: tuple[int, ...]) -> float:
    """Log-probability of a derivation under `catalan_logits`, by stepping a `ParserState`."""
    state = ParserState((len(derivation) + 1) // 2)
    total = 0.0
    for transition in derivation:
        if all(state.legal):
            sizes = torch.tensor([state.stack_size]), torch.tensor([state.buffer_size])
            odds = float(lockstep.catalan_logits(*sizes))
            total -= math.log1p(math.exp(-odds if transition == REDUCE else odds))
        state.apply(transition)
    return total


@pytest.mark.parametrize("n", range(1, 8))
def test_under_the_prior_every_tree_is_equally_likely(n):
    derivations = all_derivations(n)
    assert len(derivations) == catalan(n - 1)
    for derivation in derivations:
        assert math.exp(log_prob_of_prior(derivation)) == pytest.approx(1 / catalan(n - 1), rel=1e-5)


def test_the_prior_is_the_share_of_completions():
    for s in range(2, 7):
        for b in range(1, 7):
            odds = math.log(completions(s - 1, b) / completions(s + 1, b - 1))
            assert float(lockstep.catalan_logits(torch.tensor(s), torch.tensor(b))) == pytest.approx(
                odds, abs=1e-5
            )


def test_the_prior_is_zero_where_there_is_no_choice():
    sizes = torch.tensor([[0, 1, 1, 2, 5]]), torch.tensor([[3, 2, 0, 0, 0]])
    assert torch.equal(lockstep.catalan_logits(*sizes), torch.zeros(1, 5))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 30, 31, 32])
def test_the_tabulated_prior_is_the_prior(n):
    table = lockstep.catalan_table(n)
    assert table.shape[0] == table.shape[1] > n
    s, b = torch.meshgrid(torch.arange(n + 1), torch.arange(n + 1), indexing="ij")
    assert torch.equal(table[: n + 1, : n + 1], lockstep.catalan_logits(s, b))
    assert lockstep.catalan_table(n) is table


def test_the_prior_is_finite_for_long_sentences():
    s, b = torch.meshgrid(torch.arange(1, 3000, 37), torch.arange(0, 3000, 37), indexing="ij")
    assert lockstep.catalan_logits(s, b).isfinite().all()


def test_mean_depth_is_that_of_the_parse_scores() -> None:
    derivations, transitions, lengths, _ = batch_of([1, 2, 3, 5, 9, 12], seed=3, extra=2)
    found = lockstep.mean_depth(lockstep.trace(transitions, lengths))
    expected = [parse_scores.mean_depth([derivation]) for derivation in derivations]
    torch.testing.assert_close(found, torch.tensor(expected))
