"""Critics: what they read, what they move, and that they can learn."""

from __future__ import annotations

import pytest
import torch

from rlparse_agents.critics import SentenceCritic, StepCritic
from rlparse_agents.losses import value_loss


def build_sentence_critic(n_sides: int = 2) -> SentenceCritic:
    torch.manual_seed(0)
    critic = SentenceCritic(20, 4, 5, n_sides).double()
    with torch.no_grad():
        for weight in critic.parameters():
            weight.normal_()
        critic.embedding.weight[0] = 0.0
    return critic


TOKENS = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0], [9, 0, 0, 0], [10, 11, 12, 0]])
LENGTHS = torch.tensor([4, 2, 1, 3])
"""Rows of two examples with two sentences, or of four with one."""


@pytest.mark.parametrize("n_sides", [1, 2])
def test_an_example_is_worth_what_its_own_sentences_say(n_sides):
    """Against an LSTM over each sentence alone, without padding."""
    critic = build_sentence_critic(n_sides)
    values = critic(TOKENS, LENGTHS)
    B = 4 // n_sides
    assert values.shape == (B,)
    for b in range(B):
        ends = []
        for s in range(n_sides):
            row = s * B + b
            words = critic.embedding(TOKENS[row, : LENGTHS[row]])
            ends.append(critic.lstm(words.unsqueeze(0))[0][0, -1])
        expected = critic.head(torch.cat(ends))
        torch.testing.assert_close(values[b], expected.squeeze(0))


def test_padding_changes_no_value():
    critic = build_sentence_critic()
    wider = torch.cat((TOKENS, torch.zeros(4, 3, dtype=torch.int64)), dim=1)
    torch.testing.assert_close(critic(wider, LENGTHS), critic(TOKENS, LENGTHS))


def test_an_untrained_critic_expects_nothing():
    torch.manual_seed(0)
    assert not SentenceCritic(20, 4, 5, 2)(TOKENS, LENGTHS).any()
    assert not StepCritic(6)(torch.randn(2, 3, 6)).any()


def test_the_sentence_critic_learns_what_examples_earn():
    torch.manual_seed(0)
    critic = SentenceCritic(20, 8, 8, 2)
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.05)
    targets = torch.tensor([[1.0, 0.0], [-1.0, -2.0]])  # means 0.5 and -1.5
    for _ in range(100):
        optimizer.zero_grad()
        value_loss(critic(TOKENS, LENGTHS), targets).backward()
        optimizer.step()
    torch.testing.assert_close(critic(TOKENS, LENGTHS), targets.mean(1), rtol=0, atol=0.05)


def test_rows_must_be_shared_among_the_sides():
    critic = build_sentence_critic()
    with pytest.raises(ValueError, match="3 rows cannot be the sentences of examples that have 2 each"):
        critic(TOKENS[:3], LENGTHS[:3])


@pytest.mark.parametrize("hidden_size", [None, 7])
def test_the_step_critic_judges_every_state_alone(hidden_size):
    torch.manual_seed(0)
    critic = StepCritic(6, hidden_size)
    assert critic.head[0].out_features == (hidden_size or 6)
    torch.nn.init.normal_(critic.head[2].weight)
    states = torch.randn(2, 3, 6)
    values = critic(states)
    assert values.shape == (2, 3)
    changed = states.clone()
    changed[1, 2] += 1.0
    assert ((critic(changed) - values).abs() > 1e-6).nonzero().tolist() == [[1, 2]]


def test_fitting_the_step_critic_moves_nothing_but_itself():
    torch.manual_seed(0)
    critic = StepCritic(6)
    torch.nn.init.normal_(critic.head[2].weight)
    states = torch.randn(2, 3, 6, requires_grad=True)
    value_loss(critic(states), torch.ones(2, 3)).backward()
    assert states.grad is None
    assert all(weight.grad is not None and weight.grad.any() for weight in critic.parameters())


def test_the_step_critic_learns_what_states_tell():
    torch.manual_seed(0)
    critic = StepCritic(2, 16)
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.05)
    states = torch.tensor([[[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]])
    targets = torch.tensor([[0.0, 1.0, 1.0, 0.0]])
    for _ in range(200):
        optimizer.zero_grad()
        value_loss(critic(states), targets).backward()
        optimizer.step()
    torch.testing.assert_close(critic(states), targets, rtol=0, atol=0.05)
