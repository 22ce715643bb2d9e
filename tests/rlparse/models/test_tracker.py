"""The Tracker: an LSTM with two uses that agree."""

from __future__ import annotations

import pytest
import torch

from rlparse.models.tracker import Tracker
from slow_reference import lstm_formula


@pytest.fixture
def tracker() -> Tracker:
    torch.manual_seed(0)
    return Tracker(2, 4).double()


def test_a_step_is_the_lstm_formula(tracker):
    inputs = torch.randn(5, 6, dtype=torch.float64)
    hidden, cell = torch.randn(2, 5, 4, dtype=torch.float64)
    new_hidden, new_cell = tracker.step(inputs, (hidden, cell))
    for row in range(5):
        expected = lstm_formula(tracker, inputs[row], hidden[row], cell[row])
        torch.testing.assert_close((new_hidden[row], new_cell[row]), expected, rtol=0, atol=1e-12)


def test_whole_derivations_are_steps_from_the_zero_state(tracker):
    inputs = torch.randn(3, 7, 6, dtype=torch.float64, requires_grad=True)
    state = tracker.initial(3, inputs)
    assert all(part.shape == (3, 4) and not part.any() and part.dtype == torch.float64 for part in state)
    stepped = []
    for t in range(7):
        state = tracker.step(inputs[:, t], state)
        stepped.append(state[0])
    by_steps, at_once = torch.stack(stepped, dim=1), tracker(inputs)
    torch.testing.assert_close(at_once, by_steps, rtol=0, atol=1e-12)
    weights = torch.randn_like(at_once)
    wanted = (inputs, *tracker.parameters())
    slow = torch.autograd.grad((by_steps * weights).sum(), wanted)
    fast = torch.autograd.grad((at_once * weights).sum(), wanted)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-10)


def test_a_step_leaves_its_state_untouched(tracker):
    state = tracker.initial(2, torch.zeros(1, dtype=torch.float64))
    assert state[0].data_ptr() != state[1].data_ptr()
    tracker.step(torch.randn(2, 6, dtype=torch.float64), state)
    assert not state[0].any()
    assert not state[1].any()
