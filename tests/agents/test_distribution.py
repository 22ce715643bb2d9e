"""The distribution over legal transitions: masked before anything is computed from it."""

from __future__ import annotations

import math

import pytest
import torch

from rlparse_agents.distribution import MaskedDistribution
from slow_reference import PAD, REDUCE, SHIFT

BOTH, ONLY_SHIFT, ONLY_REDUCE, FINISHED = [True, True], [True, False], [False, True], [False, False]
EXTREMES = [0.0, 1.0, -1.0, 90.0, -90.0, 1e4, -1e4, 1e30, -1e30]


def distribution(logits, legal) -> MaskedDistribution:
    return MaskedDistribution(torch.tensor(logits), torch.tensor(legal))


@pytest.mark.parametrize("logits", [[0.3, -0.4], [-2.0, 5.0], [0.0, 0.0]])
def test_a_free_state_has_the_softmax_of_its_logits(logits):
    there = distribution([logits], [BOTH])
    weights = [math.exp(x) for x in logits]
    probs = [w / sum(weights) for w in weights]
    for transition in (SHIFT, REDUCE):
        log_prob = there.log_prob(torch.tensor([transition])).item()
        assert log_prob == pytest.approx(math.log(probs[transition]), abs=1e-6)
    entropy = -sum(p * math.log(p) for p in probs)
    assert there.entropy().item() == pytest.approx(entropy, abs=1e-6)
    assert there.normalised_entropy().item() == pytest.approx(entropy / math.log(2), abs=1e-6)
    assert there.mode().item() == (REDUCE if logits[1] > logits[0] else SHIFT)
    assert there.free.tolist() == [True]


def test_samples_come_as_often_as_they_are_likely():
    n = 20_000
    there = distribution([[0.2, 1.1]] * n, [BOTH] * n)
    share = there.sample(torch.Generator().manual_seed(0)).float().mean().item()
    p = 1 / (1 + math.exp(0.2 - 1.1))
    assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_illegal_logits_do_not_exist():
    """Masked before the distribution is built: the illegal logit changes nothing at all."""
    reference = distribution([[0.5, -1.0]] * 3, [ONLY_SHIFT, ONLY_REDUCE, BOTH])
    for illegal in EXTREMES:
        there = distribution([[0.5, illegal], [illegal, -1.0], [0.5, -1.0]], [ONLY_SHIFT, ONLY_REDUCE, BOTH])
        assert torch.equal(there.log_probs, reference.log_probs)
        assert torch.equal(there.entropy(), reference.entropy())


@pytest.mark.parametrize("illegal", EXTREMES)
@pytest.mark.parametrize("own", EXTREMES)
def test_illegal_transitions_are_impossible_and_never_sampled(illegal, own):
    n = 500
    shifts = distribution([[own, illegal]] * n, [ONLY_SHIFT] * n)
    reduces = distribution([[illegal, own]] * n, [ONLY_REDUCE] * n)
    for there, legal in ((shifts, SHIFT), (reduces, REDUCE)):
        assert (there.sample(torch.Generator().manual_seed(1)) == legal).all()
        assert (there.mode() == legal).all()
        assert (there.log_prob(torch.full((n,), legal)) == 0).all()
        assert (there.log_prob(torch.full((n,), 1 - legal)) == -math.inf).all()
        assert (there.entropy() == 0).all()
        assert (there.normalised_entropy() == 0).all()
        assert not there.free.any()


@pytest.mark.parametrize("gap", [50.0, 1e3, 1e30])
def test_a_nearly_sure_choice_has_finite_entropy_and_gradient(gap):
    for logits in ([gap, 0.0], [0.0, gap], [gap, -gap]):
        values = torch.tensor([logits], requires_grad=True)
        there = MaskedDistribution(values, torch.tensor([BOTH]))
        likely = there.mode()
        assert torch.equal(there.sample(), likely)
        entropy = there.normalised_entropy()
        assert entropy.isfinite().all()
        assert 0 <= entropy.item() < 1e-6
        (there.log_prob(likely).sum() + entropy.sum()).backward()
        assert values.grad is not None
        assert values.grad.isfinite().all()


@pytest.mark.parametrize("illegal", EXTREMES)
def test_finished_states_give_pad_and_count_for_nothing(illegal):
    logits = torch.tensor([[illegal, 1.0], [0.5, illegal]], requires_grad=True)
    there = MaskedDistribution(logits, torch.tensor([FINISHED, FINISHED]))
    assert there.finished.tolist() == [True, True]
    for chosen in (there.sample(), there.mode()):
        assert chosen.tolist() == [PAD, PAD]
    for value in (
        there.log_prob(torch.tensor([PAD, PAD])),
        there.entropy(),
        there.normalised_entropy(),
    ):
        assert value.tolist() == [0.0, 0.0]
    total = there.log_prob(torch.tensor([PAD, PAD])).sum() + there.entropy().sum()
    total.backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_gradients_are_finite_beside_forced_and_finished_states():
    logits = torch.randn(4, 2, requires_grad=True)
    legal = torch.tensor([BOTH, ONLY_SHIFT, ONLY_REDUCE, FINISHED])
    there = MaskedDistribution(logits, legal)
    taken = torch.tensor([REDUCE, SHIFT, REDUCE, PAD])
    (there.log_prob(taken).sum() + there.normalised_entropy().sum()).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[0].any()
    assert not logits.grad[1:].any()


def test_normalised_entropy_of_a_fair_coin_is_one():
    there = distribution([[0.7, 0.7]], [BOTH])
    assert there.entropy().item() == pytest.approx(math.log(2))
    assert there.normalised_entropy().item() == pytest.approx(1.0)
    assert there.mode().item() == SHIFT  # on a tie


def test_any_leading_shape():
    torch.manual_seed(0)
    logits, legal = torch.randn(3, 4, 2), torch.rand(3, 4, 2) < 0.6
    there = MaskedDistribution(logits, legal)
    for values in (there.sample(), there.mode(), there.entropy(), there.free, there.finished):
        assert values.shape == (3, 4)
    flat = MaskedDistribution(logits.view(12, 2), legal.view(12, 2))
    assert torch.equal(there.mode().flatten(), flat.mode())
    assert torch.equal(there.log_prob(there.mode()).flatten(), flat.log_prob(flat.mode()))
    sampled = there.sample()
    legal_or_pad = torch.cat((legal, ~legal.any(-1, keepdim=True)), dim=-1)
    assert legal_or_pad.gather(-1, sampled.unsqueeze(-1)).all()


def test_samples_follow_their_generator():
    there = distribution([[0.0, 0.0]] * 64, [BOTH] * 64)
    draws = [there.sample(torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_small_integers_are_judged_too():
    there = distribution([[0.2, 0.9]], [BOTH])
    wide, narrow = (there.log_prob(torch.tensor([REDUCE], dtype=kind)) for kind in (torch.int64, torch.uint8))
    assert torch.equal(wide, narrow)


def test_logits_and_mask_must_fit():
    with pytest.raises(ValueError, match=r"logits \(3, 2\) and legal \(2, 2\) must have one shape"):
        MaskedDistribution(torch.zeros(3, 2), torch.ones(2, 2, dtype=torch.bool))
