"""The distribution over legal actions: masked before anything is computed from it."""

from __future__ import annotations

import itertools
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


# ---------------------------------------------------------------------------------------------- more than two actions

LEGAL_OF_FOUR = [list(row) for row in itertools.product([False, True], repeat=4)]


def four(scale: float = 2.0, *, seed: int = 0, copies: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of four actions, for every set of legal ones."""
    legal = torch.tensor(LEGAL_OF_FOUR).repeat(copies, 1)
    logits = torch.randn(16, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale
    return logits.repeat(copies, 1), legal


def softmax_over(logits: list[float], legal: list[bool]) -> list[float]:
    weights = [math.exp(x) if allowed else 0.0 for x, allowed in zip(logits, legal, strict=True)]
    return [w / sum(weights) for w in weights]


def test_four_actions_have_the_softmax_over_the_legal_ones():
    logits, legal = four()
    there = MaskedDistribution(logits, legal)
    rows = zip(logits.tolist(), legal.tolist(), strict=True)
    for row, (values, allowed) in enumerate(rows):
        n = sum(allowed)
        assert bool(there.finished[row]) == (n == 0)
        assert bool(there.free[row]) == (n > 1)
        if n == 0:
            assert there.mode()[row] == there.sample()[row] == 4
            assert there.log_prob(torch.full((16,), 4))[row] == there.entropy()[row] == 0
            continue
        probs = softmax_over(values, allowed)
        for action in range(4):
            found = there.log_prob(torch.full((16,), action))[row].exp().item()
            assert found == pytest.approx(probs[action], abs=1e-12)
        entropy = -sum(p * math.log(p) for p in probs if p > 0)
        assert there.entropy()[row].item() == pytest.approx(entropy, abs=1e-12)
        normalised = entropy / math.log(n) if n > 1 else 0.0
        assert there.normalised_entropy()[row].item() == pytest.approx(normalised, abs=1e-12)
        assert there.mode()[row] == probs.index(max(probs))


@pytest.mark.parametrize("scale", [2.0, 0.0, 300.0])
def test_four_actions_come_as_often_as_they_are_likely_and_illegal_ones_never(scale):
    copies = 4000
    there = MaskedDistribution(*four(scale, copies=copies))
    sampled = there.sample(torch.Generator().manual_seed(0)).view(copies, 16)
    probs = torch.nn.functional.pad(there.log_probs[:16].exp(), (0, 1))
    probs[0] = torch.eye(5)[4]
    shares = torch.nn.functional.one_hot(sampled, 5).double().mean(0)
    assert ((shares - probs).abs() <= 4.5 * (probs * (1 - probs) / copies).sqrt() + 1e-12).all()
    assert (shares[1:, :4][~there.legal[1:16]] == 0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_still_give_legal_actions(bad):
    logits, legal = four()
    legal_or_finished = torch.cat((legal, ~legal.any(-1, keepdim=True)), dim=-1)
    for column in range(4):
        there = MaskedDistribution(logits.index_fill(1, torch.tensor(column), bad), legal)
        for chosen in (there.sample(), there.mode()):
            assert legal_or_finished.gather(1, chosen.unsqueeze(1)).all()


def test_gradients_of_four_actions_are_finite_and_leave_illegal_ones_alone():
    logits, legal = four()
    logits.requires_grad_()
    there, other = MaskedDistribution(logits, legal), MaskedDistribution(four(seed=1)[0], legal)
    total = there.log_prob(there.mode()).sum() + there.normalised_entropy().sum() + there.kl(other).sum()
    total.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert not logits.grad[~(legal & there.free.unsqueeze(1))].any()
    assert logits.grad[there.free].any(-1).all()


def test_one_action_is_never_a_choice():
    there = MaskedDistribution(torch.tensor([[3.0], [3.0]]), torch.tensor([[True], [False]]))
    assert there.sample().tolist() == there.mode().tolist() == [0, 1]
    assert there.entropy().tolist() == there.normalised_entropy().tolist() == [0.0, 0.0]


# ---------------------------------------------------------------------------------------------------- divergence


def test_divergence_is_the_expected_difference_of_log_probs():
    (here, legal), (there, _) = four(), four(seed=1)
    p, q = MaskedDistribution(here, legal), MaskedDistribution(there, legal)
    found = p.kl(q)
    rows = zip(here.tolist(), there.tolist(), legal.tolist(), strict=True)
    for value, (own, others, allowed) in zip(found.tolist(), rows, strict=True):
        if sum(allowed) < 2:
            assert value == 0.0
            continue
        pairs = zip(softmax_over(own, allowed), softmax_over(others, allowed), strict=True)
        expected = sum(a * math.log(a / b) for a, b in pairs if a > 0)
        assert expected > 1e-3
        assert value == pytest.approx(expected, abs=1e-12)
    assert (p.kl(p) == 0).all()
    assert (found - q.kl(p)).abs().max() > 0.1  # it has a direction


def test_divergence_passes_gradients_to_both():
    tensors = [four(seed=seed)[0].requires_grad_() for seed in (0, 1)]
    legal = four()[1]
    torch.autograd.gradcheck(
        lambda a, b: MaskedDistribution(a, legal).kl(MaskedDistribution(b, legal)), tensors, atol=1e-6
    )


def test_divergence_of_sure_choices_is_finite():
    sure, other = distribution([[1e3, -1e3]], [BOTH]), distribution([[-1e3, 1e3]], [BOTH])
    assert sure.kl(sure).item() == 0.0
    assert sure.kl(other).item() == pytest.approx(2e3)


def test_divergence_needs_one_shape():
    one, other = distribution([[0.0, 0.0]], [BOTH]), distribution([[0.0, 0.0]] * 2, [BOTH] * 2)
    with pytest.raises(ValueError, match=r"over \(1, 2\) has no divergence from one over \(2, 2\)"):
        one.kl(other)
