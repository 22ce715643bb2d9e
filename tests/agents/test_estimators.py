"""Which estimators follow the exact gradient of the expected reward, by enumerating all derivations and all samples.

The policy is a table: a logit of its own wherever a parser has a choice after the transitions so far. Every set of
probabilities of trees is one of its, so that an estimator that is unbiased here is so for any policy.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rlparse.transitions import ParserState
from rlparse_agents.baselines import (
    BASELINES,
    MovingAverage,
    crosswise_returns,
    greedy_advantages,
    leave_one_out_advantages,
    spread_over_rows,
    value_advantages,
)
from rlparse_agents.losses import RATIOS, clipped_loss, policy_gradient_loss
from rlparse_agents.normalisers import NORMALISERS, RunningSd
from rlparse_agents.returns import final_rewards, gae
from slow_reference import all_derivations

Rows = list[int]
Loss = Callable[[Rows], Tensor]


class Table:
    """All trees over n tokens, and a policy that can give them any probabilities."""

    def __init__(self, n: int, seed: int = 0) -> None:
        self.derivations = all_derivations(n)
        self.size = len(self.derivations)
        free, self.choices = [], {}
        for derivation in self.derivations:
            parser, row = ParserState(n), []
            for t, transition in enumerate(derivation):
                row.append(all(parser.legal))
                if row[-1]:
                    self.choices.setdefault(derivation[:t], len(self.choices))
                parser.apply(transition)
            free.append(row)
        self.free = torch.tensor(free)
        generator = torch.Generator().manual_seed(seed)
        self.logits = torch.randn(
            len(self.choices), generator=generator, dtype=torch.float64
        ).requires_grad_()
        self.rewards = torch.randn(self.size, generator=generator, dtype=torch.float64)
        self.generator = generator

    def judge(self, logits: Tensor) -> Tensor:
        """Log-probabilities of all transitions of all trees: [trees, T]."""
        log_probs = logits.new_zeros(self.free.shape)
        for r, t in self.free.nonzero().tolist():
            prefix, transition = self.derivations[r][:t], self.derivations[r][t]
            logit = logits[self.choices[prefix]]
            log_probs[r, t] = F.logsigmoid(logit if transition else -logit)
        return log_probs

    @property
    def log_probs(self) -> Tensor:
        return self.judge(self.logits)

    @property
    def probabilities(self) -> Tensor:
        return self.log_probs.detach().sum(1).exp()

    def exact(self) -> Tensor:
        """Gradient of the expected reward, by autograd through the probabilities of all trees."""
        expected = (self.log_probs.sum(1).exp() * self.rewards).sum()
        return torch.autograd.grad(expected, self.logits)[0]

    def estimated(self, loss: Loss, n_parses: int, probabilities: Tensor | None = None) -> Tensor:
        """Expected gradient of minus the loss, over all tuples of K parses drawn independently."""
        p = self.probabilities if probabilities is None else probabilities
        tuples = itertools.product(range(self.size), repeat=n_parses)
        total = sum(p[list(rows)].prod() * loss(list(rows)) for rows in tuples)
        return -torch.autograd.grad(total, self.logits)[0]

    def by_advantages(self, advantages: Callable[[Rows], Tensor], **options) -> Loss:
        """The score-function loss of parses whose advantages are [1, K], [K] or [K, T]."""
        log_probs = self.log_probs

        def loss(rows: Rows) -> Tensor:
            found = advantages(rows)
            found = found.flatten() if found.shape == (1, len(rows)) else found
            return policy_gradient_loss(
                log_probs[rows], found, self.free[rows], **{"average": "sum", **options}
            )

        return loss

    def values(self, of: Callable[[Sequence[int]], float]) -> Tensor:
        """What a critic says before every choice of every tree: [trees, T]; rubbish where there is none."""
        values = torch.full(self.free.shape, math.nan, dtype=torch.float64)
        known = {prefix: of(prefix) for prefix in self.choices}
        for r, t in self.free.nonzero().tolist():
            values[r, t] = known[self.derivations[r][:t]]
        return values

    def expected_after(self, prefix: Sequence[int]) -> float:
        """Exact value of having made these transitions."""
        ways = [r for r, derivation in enumerate(self.derivations) if derivation[: len(prefix)] == prefix]
        p = self.probabilities[ways]
        return float((p * self.rewards[ways]).sum() / p.sum())


def assert_same(estimated: Tensor, exact: Tensor) -> None:
    torch.testing.assert_close(estimated, exact, rtol=0, atol=1e-12)
    assert exact.abs().max() > 1e-2


def cosine(one: Tensor, other: Tensor) -> float:
    return F.cosine_similarity(one, other, dim=0).item()


# -------------------------------------------------------------------------------------------------- unbiased


def build_advantages(baseline: str, table: Table) -> Callable[[Tensor], Tensor]:
    """Advantages of returns [1, K]."""
    if baseline in BASELINES:
        return BASELINES[baseline]
    if baseline == "greedy":
        greedy = table.rewards[table.probabilities.argmax()].view(1)
        return lambda returns: greedy_advantages(returns, greedy)
    return lambda returns: value_advantages(returns, returns.new_full((1,), 0.7))


@pytest.mark.parametrize("baseline", ["none", "leave_one_out", "greedy", "value"])
@pytest.mark.parametrize(("n", "n_parses"), [(3, 2), (4, 2), (5, 2), (6, 2), (4, 3)])
def test_these_baselines_follow_the_exact_gradient(baseline, n, n_parses):
    table = Table(n)
    advantages = build_advantages(baseline, table)
    loss = table.by_advantages(lambda rows: advantages(table.rewards[rows].unsqueeze(0)))
    assert_same(table.estimated(loss, n_parses), table.exact())


def test_a_constant_average_only_scales():
    table = Table(5)
    loss = table.by_advantages(
        lambda rows: leave_one_out_advantages(table.rewards[rows].unsqueeze(0)), average="constant"
    )
    assert_same(table.estimated(loss, 2) * 9, table.exact())  # nine transitions


@pytest.mark.parametrize("n", [4, 5])
@pytest.mark.parametrize("update_first", [False, True])
def test_a_moving_average_is_unbiased_because_it_is_that_of_earlier_batches(n, update_first):
    """Both batches are enumerated. Counting a batch in before judging it shrinks the gradient by mu / K."""
    table = Table(n)

    def advantages(rows: Rows) -> Tensor:
        average = MovingAverage(0.4)
        average.update(table.rewards[rows[:1]])
        own = table.rewards[rows[1:]]
        if update_first:
            average.update(own)
        return torch.cat((own.new_zeros(1), 2 * average.advantages(own)))  # of two rows one counts

    estimated = table.estimated(table.by_advantages(advantages), 2)
    assert_same(estimated, (0.6 if update_first else 1.0) * table.exact())


@pytest.mark.parametrize("n", [4, 5, 6])
@pytest.mark.parametrize(
    ("values", "lam", "unbiased"),
    [
        ("wrong", 1.0, True),
        ("exact", 1.0, True),
        ("exact", 0.5, True),
        ("exact", 0.0, True),
        ("wrong", 0.5, False),
    ],
)
def test_values_of_single_decisions(n, values, lam, unbiased):
    """A wrong critic does no harm at lambda 1, an exact one at any lambda; a wrong one below 1 biases."""
    table = Table(n)
    rubbish = torch.randn(99, generator=table.generator, dtype=torch.float64).tolist()
    known = table.values(
        lambda p: table.expected_after(p) if values == "exact" else rubbish[table.choices[p]]
    )
    advantages = gae(final_rewards(table.rewards, table.free), known, table.free, lam=lam)
    estimated, exact = table.estimated(table.by_advantages(lambda rows: advantages[rows]), 1), table.exact()
    if unbiased:
        assert_same(estimated, exact)
    else:
        assert cosine(estimated, exact) < 0.99


def test_a_running_sd_only_scales():
    table, running = Table(5), RunningSd(0.0)
    running.update(torch.tensor([[3.0, -3.0]], dtype=torch.float64))
    loss = table.by_advantages(
        lambda rows: running.normalise(leave_one_out_advantages(table.rewards[rows].unsqueeze(0)))
    )
    assert_same(table.estimated(loss, 2) * math.sqrt(18), table.exact())


# ---------------------------------------------------------------------------------------------------- biased


@pytest.mark.parametrize(("n", "n_parses"), [(4, 2), (5, 2), (6, 2), (4, 3), (3, 5)])
def test_the_group_mean_shrinks_the_gradient_and_keeps_its_direction(n, n_parses):
    table = Table(n)
    loss = table.by_advantages(lambda rows: BASELINES["group_mean"](table.rewards[rows].unsqueeze(0)))
    assert_same(table.estimated(loss, n_parses), table.exact() * (n_parses - 1) / n_parses)


@pytest.mark.parametrize("name", ["group_sd", "batch_sd"])
def test_a_divisor_of_the_very_samples_changes_the_direction(name):
    table = Table(5)
    loss = table.by_advantages(
        lambda rows: NORMALISERS[name](BASELINES["group_mean"](table.rewards[rows].unsqueeze(0)))
    )
    assert 0.7 < cosine(table.estimated(loss, 2), table.exact()) < 0.99


@pytest.mark.parametrize("average", ["decisions", "parses"])
def test_dividing_by_free_decisions_changes_the_direction(average):
    """Trees that are built with few choices count for more."""
    table = Table(5)
    loss = table.by_advantages(
        lambda rows: leave_one_out_advantages(table.rewards[rows].unsqueeze(0)), average=average
    )
    estimated = table.estimated(loss, 2)
    assert 0.8 < cosine(estimated, table.exact()) < 0.9999


# ------------------------------------------------------------------------------------------------------- PPO


@pytest.mark.parametrize("ratio", RATIOS)
def test_ppo_begins_with_the_exact_gradient(ratio):
    table = Table(5)
    log_probs, old = table.log_probs, table.log_probs.detach()

    def loss(rows: Rows) -> Tensor:
        advantages = leave_one_out_advantages(table.rewards[rows].unsqueeze(0)).flatten()
        return clipped_loss(
            log_probs[rows], old[rows], advantages, table.free[rows], ratio=ratio, average="sum"
        )

    assert_same(table.estimated(loss, 2), table.exact())


@pytest.mark.parametrize("ratio", RATIOS)
def test_ratios_of_trees_correct_for_an_older_policy_and_those_of_decisions_almost(ratio):
    """Without a clip, the tree's ratio is importance sampling: exact, whoever sampled."""
    table = Table(5)
    moved = 0.5 * torch.randn(len(table.choices), generator=table.generator, dtype=torch.float64)
    old = table.judge(table.logits.detach() + moved)
    log_probs = table.log_probs

    def loss(rows: Rows) -> Tensor:
        options = {"clip_low": 1.0, "clip_high": math.inf, "ratio": ratio, "average": "sum"}
        return clipped_loss(log_probs[rows], old[rows], table.rewards[rows], table.free[rows], **options)

    estimated, exact = table.estimated(loss, 1, old.sum(1).exp()), table.exact()
    if ratio == "tree":
        assert_same(estimated, exact)
    else:
        assert 0.5 < cosine(estimated, exact) < 0.999


# ---------------------------------------------------------------------------------- pairs that are scored crosswise


class Pairs:
    """A premise and a hypothesis, parsed by tables of their own; every pair of parses has a reward."""

    def __init__(self, n: int, m: int) -> None:
        self.premise, self.hypothesis = Table(n), Table(m, seed=1)
        generator = self.premise.generator
        self.rewards = torch.randn(
            self.premise.size, self.hypothesis.size, generator=generator, dtype=torch.float64
        )
        self.logits = (self.premise.logits, self.hypothesis.logits)

    def exact(self) -> Tensor:
        p, q = (table.log_probs.sum(1).exp() for table in (self.premise, self.hypothesis))
        return torch.cat(torch.autograd.grad(p @ self.rewards @ q, self.logits))

    def scores(self) -> tuple[Tensor, Tensor]:
        """Gradients of the log-probabilities of all parses of either: [trees, all logits]."""
        one, other = (
            torch.autograd.functional.jacobian(lambda x, t=table: t.judge(x).sum(1), table.logits.detach())
            for table in (self.premise, self.hypothesis)
        )
        return F.pad(one, (0, other.shape[1])), F.pad(other, (one.shape[1], 0))

    def moments(self, *, crosswise: bool) -> tuple[Tensor, float]:
        """Expectation and summed variance of the leave-one-out estimate from K = 2 parses of each sentence."""
        p, q = self.premise.probabilities, self.hypothesis.probabilities
        of_premise, of_hypothesis = self.scores()
        mean, square = torch.zeros(of_premise.shape[1]), 0.0
        for i, j in itertools.product(range(len(p)), repeat=2):
            for k, m in itertools.product(range(len(q)), repeat=2):
                rewards = self.rewards[[i, j]][:, [k, m]].unsqueeze(0)  # [1, K, K]
                returns = crosswise_returns(rewards) if crosswise else rewards.diagonal(dim1=1, dim2=2)
                advantages = spread_over_rows(leave_one_out_advantages(returns), 4)
                scores = torch.cat((of_premise[[i, j]], of_hypothesis[[k, m]]))
                estimate = (advantages.unsqueeze(1) * scores).sum(0) / 2
                weight = p[i] * p[j] * q[k] * q[m]
                mean = mean + weight * estimate
                square += float(weight * estimate.square().sum())
        return mean, square - float(mean.square().sum())


@pytest.mark.parametrize(("n", "m"), [(3, 4), (4, 4), (4, 3)])
def test_crosswise_pairs_follow_the_exact_gradient_with_less_variance(n, m):
    pairs = Pairs(n, m)
    exact = pairs.exact()
    variances = {}
    for crosswise in (False, True):
        mean, variances[crosswise] = pairs.moments(crosswise=crosswise)
        assert_same(mean, exact)
    assert variances[True] < 0.9 * variances[False]
