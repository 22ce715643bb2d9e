"""Losses of the policy: formulas, scaling, what passes a gradient, and shapes."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from rlparse_agents.distribution import MaskedDistribution
from rlparse_agents.losses import (
    AVERAGES,
    RATIOS,
    average_over_free,
    clipped_loss,
    imitation_loss,
    kl_penalty,
    mean_over_free,
    policy_gradient_loss,
    ratio_statistics,
    value_loss,
)


def random_case(rows: int = 4, steps: int = 5):
    torch.manual_seed(0)
    log_probs = -torch.rand(rows, steps, dtype=torch.float64)
    advantages = torch.randn(rows, dtype=torch.float64)
    free = torch.rand(rows, steps) < 0.6
    return log_probs.masked_fill(~free, 0.0), advantages, free


def test_the_loss_is_its_formula():
    log_probs, advantages, free = random_case()
    total, count = 0.0, 0
    for r in range(4):
        for t in range(5):
            if free[r, t]:
                total += advantages[r].item() * log_probs[r, t].item()
                count += 1
    assert policy_gradient_loss(log_probs, advantages, free).item() == pytest.approx(-total / count)


def test_it_is_divided_by_the_number_of_free_decisions():
    """A batch and the same batch twice have the same loss; forced decisions change nothing."""
    log_probs, advantages, free = random_case()
    loss = policy_gradient_loss(log_probs, advantages, free)
    twice = policy_gradient_loss(log_probs.repeat(2, 1), advantages.repeat(2), free.repeat(2, 1))
    torch.testing.assert_close(twice, loss)
    forced = torch.zeros(4, 3)
    more = policy_gradient_loss(
        torch.cat((log_probs, forced), dim=1), advantages, torch.cat((free, forced.bool()), dim=1)
    )
    torch.testing.assert_close(more, loss)
    whole = loss * free.sum()
    rows = [
        policy_gradient_loss(log_probs[r : r + 1], advantages[r : r + 1], free[r : r + 1]) * free[r].sum()
        for r in range(4)
    ]
    torch.testing.assert_close(torch.stack(rows).sum(), whole)


def test_the_gradient_raises_what_was_better_than_expected():
    log_probs = torch.full((2, 1), -0.7, requires_grad=True)
    policy_gradient_loss(log_probs, torch.tensor([1.0, -2.0]), torch.ones(2, 1, dtype=torch.bool)).backward()
    assert log_probs.grad is not None
    assert log_probs.grad.flatten().tolist() == [-0.5, 1.0]  # minus the advantage, over two free decisions


def test_advantages_get_no_gradient():
    log_probs, advantages, free = random_case()
    log_probs.requires_grad_()
    advantages.requires_grad_()
    policy_gradient_loss(log_probs, advantages, free).backward()
    assert log_probs.grad is not None
    assert not log_probs.grad[~free].any()
    assert advantages.grad is None


def test_without_a_free_decision_the_loss_is_zero():
    log_probs = torch.zeros(3, 1, requires_grad=True)
    loss = policy_gradient_loss(log_probs, torch.randn(3), torch.zeros(3, 1, dtype=torch.bool))
    assert loss.item() == 0.0
    loss.backward()
    assert log_probs.grad is not None
    assert not log_probs.grad.any()


def test_the_mean_is_over_free_decisions_only():
    values = torch.tensor([[1.0, float("nan"), 3.0], [float("inf"), 5.0, 7.0]])
    free = torch.tensor([[True, False, True], [False, True, False]])
    assert mean_over_free(values, free).item() == 3.0
    assert mean_over_free(values, torch.zeros_like(free)).item() == 0.0


@pytest.mark.parametrize(
    ("log_probs", "advantages", "free"),
    [((3, 5), (3,), (3, 4)), ((3, 5), (2,), (3, 5)), ((3, 5), (3, 1), (3, 5)), ((3,), (3,), (3,))],
)
def test_shapes_must_fit(log_probs, advantages, free):
    message = (
        r"log_probs and free must be \[R, M\] and advantages \[R\] or \[R, M\], got \(.*\), \(.*\) and \("
    )
    with pytest.raises(ValueError, match=message):
        policy_gradient_loss(
            torch.zeros(log_probs), torch.zeros(advantages), torch.ones(free, dtype=torch.bool)
        )


# --------------------------------------------------------------------------------- averages, and single decisions


def slow_average(values: list[list[float]], free: list[list[bool]], average: str) -> float:
    kept = [[x for x, f in zip(row, fs, strict=True) if f] for row, fs in zip(values, free, strict=True)]
    if average == "decisions":
        return sum(map(sum, kept)) / sum(map(len, kept))
    if average == "parses":
        return statistics.mean(sum(row) / len(row) for row in kept if row)
    return sum(map(sum, kept)) / len(kept) / (len(values[0]) if average == "constant" else 1)


@pytest.mark.parametrize("average", AVERAGES)
def test_each_average_is_its_formula(average):
    values, _, free = random_case()
    free[1] = False  # a sentence of two words
    expected = slow_average(values.tolist(), free.tolist(), average)
    assert average_over_free(values, free, average=average).item() == pytest.approx(expected)
    assert imitation_loss(values, free, average=average).item() == pytest.approx(-expected)


@pytest.mark.parametrize("average", AVERAGES)
def test_every_average_ignores_what_is_not_free(average):
    values, _, free = random_case()
    broken = values.masked_fill(~free, float("nan"))
    one, other = (average_over_free(x, free, average=average) for x in (values, broken))
    assert torch.equal(one, other)
    assert average_over_free(broken, torch.zeros_like(free), average=average).item() == 0.0


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("ratio", RATIOS)
def test_sentences_of_one_word_have_no_merges_to_learn_from(average, ratio):
    log_probs, advantages, free = torch.zeros(3, 0), torch.ones(3), torch.zeros(3, 0, dtype=torch.bool)
    assert policy_gradient_loss(log_probs, advantages, free, average=average).item() == 0.0
    loss = clipped_loss(log_probs, log_probs, advantages, free, ratio=ratio, average=average)
    assert loss.item() == 0.0


@pytest.mark.parametrize("average", AVERAGES)
def test_an_advantage_for_each_decision_weighs_it_alone(average):
    log_probs, _, free = random_case()
    torch.manual_seed(1)
    advantages = torch.randn(4, 5, dtype=torch.float64)
    loss = policy_gradient_loss(log_probs, advantages, free, average=average)
    expected = slow_average((log_probs * advantages).tolist(), free.tolist(), average)
    assert loss.item() == pytest.approx(-expected)
    one, many = advantages[:, 0], advantages[:, :1].expand(4, 5)
    torch.testing.assert_close(
        policy_gradient_loss(log_probs, one, free, average=average),
        policy_gradient_loss(log_probs, many, free, average=average),
    )


def test_an_unknown_average_is_refused():
    log_probs, advantages, free = random_case()
    with pytest.raises(ValueError, match="unknown average 'rows'; known: decisions, parses, constant, sum"):
        policy_gradient_loss(log_probs, advantages, free, average="rows")


@pytest.mark.parametrize(("values", "free"), [((3, 5), (3, 4)), ((3,), (3,))])
def test_averages_are_of_decisions(values, free):
    with pytest.raises(ValueError, match=r"values and free must be \[R, M\], got \("):
        imitation_loss(torch.zeros(values), torch.ones(free, dtype=torch.bool))


# ------------------------------------------------------------------------------------------------------ clipping


def moved_case():
    """Log-probs of now, those of before, advantages and what is free; ratios on both sides of any clip."""
    log_probs, advantages, free = random_case(rows=6)
    old = log_probs + torch.randn(6, 5, dtype=torch.float64).masked_fill(~free, 0.0) * 0.4
    return log_probs, old, advantages, free


def slow_clipped(case, low: float, high: float, ratio: str, average: str) -> float:
    log_probs, old, advantages, free = (part.tolist() for part in case)
    surrogates = []
    for r, A in enumerate(advantages):
        moved = [n - o if f else 0.0 for n, o, f in zip(log_probs[r], old[r], free[r], strict=True)]
        if ratio == "tree":
            moved = [sum(moved)] * 5
        row = []
        for x in moved:
            rho = math.exp(x)
            row.append(min(rho * A, min(max(rho, 1 - low), 1 + high) * A))
        n_free = max(1, sum(free[r]))
        surrogates.append([x / n_free if ratio == "tree" else x for x in row])
    return -slow_average(surrogates, free, average)


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.1, 0.5), (1.0, math.inf)])
def test_the_clipped_loss_is_its_formula(low, high, ratio, average):
    case = moved_case()
    loss = clipped_loss(*case, clip_low=low, clip_high=high, ratio=ratio, average=average)
    assert loss.item() == pytest.approx(slow_clipped(case, low, high, ratio, average))


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("clip", [0.2, 0.0])
def test_its_gradient_where_nothing_has_moved_is_that_of_reinforce(clip, ratio, average):
    log_probs, _, advantages, free = moved_case()
    log_probs.requires_grad_()
    clipped = clipped_loss(
        log_probs, log_probs, advantages, free, clip_low=clip, clip_high=clip, ratio=ratio, average=average
    )
    plain = policy_gradient_loss(log_probs, advantages, free, average=average)
    torch.testing.assert_close(*(torch.autograd.grad(loss, log_probs)[0] for loss in (clipped, plain)))


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize(
    ("moved", "advantage", "goes_on"),
    [
        (0.25, 1.0, True),
        (0.4, 1.0, False),  # above 1 + clip_high = 1.3
        (0.4, -1.0, True),  # the way back is always open
        (-0.05, -1.0, True),
        (-0.2, -1.0, False),  # below 1 - clip_low = 0.9
        (-0.2, 1.0, True),
    ],
)
def test_a_ratio_earns_nothing_beyond_its_bound(ratio, moved, advantage, goes_on):
    log_probs = torch.tensor([[-1.0 + moved, 0.0]], requires_grad=True)
    loss = clipped_loss(
        log_probs,
        torch.tensor([[-1.0, 0.0]]),
        torch.tensor([advantage]),
        torch.tensor([[True, False]]),
        clip_low=0.1,
        clip_high=0.3,
        ratio=ratio,
    )
    loss.backward()
    expected = [[-advantage * math.exp(moved) if goes_on else 0.0, 0.0]]
    torch.testing.assert_close(log_probs.grad, torch.tensor(expected))


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
def test_a_ratio_beyond_all_numbers_stays_finite(ratio, advantage):
    log_probs = torch.zeros(1, 300, requires_grad=True)
    old = torch.full((1, 300), -100.0)
    clipped_loss(
        log_probs, old, torch.tensor([advantage]), torch.ones(1, 300, dtype=torch.bool), ratio=ratio
    ).backward()
    assert log_probs.grad.isfinite().all()


def test_decisions_may_have_advantages_of_their_own():
    log_probs, old, _, free = moved_case()
    torch.manual_seed(2)
    advantages = torch.randn(6, 5, dtype=torch.float64)
    loss = clipped_loss(log_probs, old, advantages, free)
    rho = (log_probs - old).exp()
    expected = torch.minimum(rho * advantages, rho.clamp(0.8, 1.2) * advantages)[free].mean()
    assert loss.item() == pytest.approx(-expected.item())


def test_advantages_and_old_log_probs_get_no_gradient():
    log_probs, old, advantages, free = moved_case()
    for part in (log_probs, old, advantages):
        part.requires_grad_()
    clipped_loss(log_probs, old, advantages, free).backward()
    assert log_probs.grad is not None
    assert old.grad is None
    assert advantages.grad is None


@pytest.mark.parametrize("ratio", RATIOS)
def test_statistics_tell_what_is_clipped_and_how_far_it_went(ratio):
    log_probs, old, _, free = moved_case()
    free[2] = False
    found = ratio_statistics(log_probs.requires_grad_(), old, free, clip_low=0.1, clip_high=0.3, ratio=ratio)
    if ratio == "tree":
        moved = [(log_probs - old)[r][free[r]].sum().item() for r in range(6) if free[r].any()]
    else:
        moved = (log_probs - old)[free].tolist()
    outside = [not 0.9 <= math.exp(x) <= 1.3 for x in moved]
    assert 0 < sum(outside) < len(outside)
    assert found.clip_fraction.item() == pytest.approx(sum(outside) / len(outside))
    assert found.approximate_kl.item() == pytest.approx(statistics.mean(math.exp(x) - 1 - x for x in moved))
    assert not found.approximate_kl.requires_grad
    still = ratio_statistics(old, old, free, ratio=ratio)
    assert (still.clip_fraction.item(), still.approximate_kl.item()) == (0.0, 0.0)


def test_whole_trees_have_one_advantage():
    log_probs, old, _, free = moved_case()
    with pytest.raises(ValueError, match=r"ratio='tree' .* baseline='step_value' .* use ratio='decision'"):
        clipped_loss(log_probs, old, log_probs, free, ratio="tree")


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.2), (1.1, 0.2), (0.2, -0.1)])
def test_bounds_of_ratios(low, high):
    with pytest.raises(ValueError, match=r"clip_low must be in \[0, 1\] and clip_high not negative, got"):
        clipped_loss(*moved_case(), clip_low=low, clip_high=high)


def test_an_unknown_ratio_is_refused():
    with pytest.raises(ValueError, match="unknown ratio 'row'; known: decision, tree"):
        clipped_loss(*moved_case(), ratio="row")


@pytest.mark.parametrize("loss", [clipped_loss, ratio_statistics])
def test_old_and_new_must_be_of_the_same_decisions(loss):
    log_probs, old, advantages, free = moved_case()
    given = (advantages, free) if loss is clipped_loss else (free,)
    with pytest.raises(ValueError, match=r"log_probs, old_log_probs and free must be \[R, M\], got \("):
        loss(log_probs, old[:, 1:], *given)


# ------------------------------------------------------------------------------------------ reference, and critics


@pytest.mark.parametrize("average", AVERAGES)
def test_the_penalty_is_the_exact_divergence_of_free_decisions(average):
    torch.manual_seed(0)
    logits, others = torch.randn(2, 4, 5, 3, dtype=torch.float64)
    legal = torch.rand(4, 5, 3) < 0.7
    legal[0, 0], legal[0, 1] = False, torch.tensor([True, False, False])
    ours, reference = MaskedDistribution(logits.requires_grad_(), legal), MaskedDistribution(others, legal)
    divergence, free = [[0.0] * 5 for _ in range(4)], [[False] * 5 for _ in range(4)]
    for r in range(4):
        for m in range(5):
            allowed = legal[r, m].nonzero().flatten()
            free[r][m] = len(allowed) > 1
            if free[r][m]:
                p, q = logits[r, m, allowed].softmax(0), others[r, m, allowed].softmax(0)
                divergence[r][m] = (p * (p / q).log()).sum().item()
    penalty = kl_penalty(ours, reference, average=average)
    assert penalty.item() == pytest.approx(slow_average(divergence, free, average))
    penalty.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad.any()


def test_nothing_is_to_pay_for_staying_at_the_reference():
    logits, legal = torch.randn(4, 5, 2), torch.ones(4, 5, 2, dtype=torch.bool)
    ours = MaskedDistribution(logits.requires_grad_(), legal)
    penalty = kl_penalty(ours, MaskedDistribution(logits.detach(), legal))
    assert penalty.item() == pytest.approx(0.0, abs=1e-7)
    penalty.backward()
    assert logits.grad.abs().max() < 1e-6


def test_a_critic_pays_for_its_squared_errors():
    values = torch.tensor([1.0, 3.0], requires_grad=True)
    loss = value_loss(values, torch.tensor([2.0, 1.0], requires_grad=True))
    assert loss.item() == (1 + 4) / 2
    loss.backward()
    assert values.grad.tolist() == [-1.0, 2.0]
    every_parse = value_loss(values, torch.tensor([[2.0, 0.0, 1.0], [1.0, 3.0, 3.0]]))
    assert every_parse.item() == pytest.approx((1 + 1 + 0 + 4 + 0 + 0) / 6)


def test_only_what_counts_is_charged():
    values, targets = torch.tensor([[1.0, 5.0], [2.0, 2.0]]), torch.tensor([[0.0, 0.0], [5.0, 2.0]])
    counted = torch.tensor([[True, False], [True, True]])
    assert value_loss(values, targets, counted).item() == pytest.approx((1 + 9 + 0) / 3)
    assert value_loss(values, targets, torch.zeros_like(counted)).item() == 0.0


@pytest.mark.parametrize(
    ("values", "targets", "counted"),
    [((3,), (4,), None), ((3,), (4, 2), None), ((3, 4), (3,), None), ((3, 4), (3, 4), (3,))],
)
def test_targets_must_fit_the_values(values, targets, counted):
    mask = None if counted is None else torch.ones(counted, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"values must be \[G\] with targets .* got \("):
        value_loss(torch.zeros(values), torch.zeros(targets), mask)
