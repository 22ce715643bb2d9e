"""Advantages and losses, against versions that go through parses and decisions one by one."""

from __future__ import annotations

import itertools
import math
import statistics
from typing import Any

import pytest
import torch
from torch import Tensor

from rlparse.corpora.batching import Batch
from rlparse_agents.baselines import BASELINE_NAMES
from rlparse_agents.critics import SentenceCritic, StepCritic
from rlparse_agents.distribution import MaskedDistribution
from rlparse_agents.estimator import CHOICES, Estimator
from rlparse_agents.losses import AVERAGES, RATIOS
from rlparse_agents.normalisers import NORMALISER_NAMES
from rlparse_agents.parsing_policy import Judgement
from rlparse_agents.policy_loss import PolicyLoss, Weighed
from slow_reference import plain_batch

S, B, K, M, H = 2, 3, 2, 5, 3
R = S * B * K
ROWS = list(itertools.product(range(S), range(B), range(K)))
"""Side, example and parse of every row."""

Steps = list[list[float]]


class Case:
    """Decisions of a made-up policy: its logits before, now, and of a reference; what is legal, and what it knew."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.before = normal(R, M, 3)
        self.now = (self.before + 0.5 * normal(R, M, 3)).requires_grad_()
        self.reference = normal(R, M, 3)
        self.legal = torch.rand(R, M, 3, generator=generator) < 0.6
        self.legal[:, 3:][torch.arange(R) % 3 == 0] = False  # some rows end early
        self.legal[4] = torch.tensor([True, False, False])  # and one never has a choice
        self.decisions = MaskedDistribution(self.before, self.legal).sample(generator)
        self.states = normal(R, M, H)
        self.returns = {"matched": normal(B, K), "crosswise": normal(S * B, K)}
        self.greedy = {"matched": normal(B), "crosswise": normal(S * B)}
        tokens = [[[2, 3, 4], [5, 6]], [[7, 2], [3]], [[4], [5, 8, 2, 3]]]
        self.examples: Batch = plain_batch(tokens)
        self.generator = generator

    def judgement(self, logits: Tensor) -> Judgement:
        return Judgement(MaskedDistribution(logits, self.legal), self.states)

    def free(self, r: int, m: int) -> bool:
        return int(self.legal[r, m].sum()) > 1

    def log_prob(self, logits: Tensor, r: int, m: int) -> Tensor:
        total = sum(logits[r, m, a].exp() for a in range(3) if self.legal[r, m, a])
        return logits[r, m, int(self.decisions[r, m])] - torch.as_tensor(total).log()

    def critic(self, baseline: str) -> SentenceCritic | StepCritic | None:
        if baseline not in ("value", "step_value"):
            return None
        made = SentenceCritic(9, 3, 3, S) if baseline == "value" else StepCritic(H, 4)
        made.double()
        with torch.no_grad():
            for weight in made.parameters():
                weight.copy_(torch.randn(weight.shape, generator=self.generator, dtype=torch.float64))
        return made


def value_of_example(critic: SentenceCritic, case: Case, b: int) -> float:
    one = [case.examples.tokens[s * B + b, : case.examples.lengths[s * B + b]].unsqueeze(0) for s in range(S)]
    ends = [critic.lstm(critic.embedding(words))[0][0, -1] for words in one]
    return critic.head(torch.cat(ends)).item()


def slow_weigh(
    case: Case, estimator: Estimator, critic: Any, memory: dict[str, Any]
) -> tuple[Steps, list[float], Steps | None]:
    """Advantages of every row and decision, those that the statistics are of, and targets of a critic of steps."""
    returns = case.returns[estimator.pairing].tolist()
    greedy = case.greedy[estimator.pairing].tolist()
    groups = range(len(returns))
    targets = None
    if estimator.baseline == "step_value":
        advantages: Any = []
        targets = []
        for r, (s, b, k) in enumerate(ROWS):
            steps = [m for m in range(M) if case.free(r, m)]
            rewards = dict.fromkeys(steps, 0.0)
            if steps:
                rewards[steps[-1]] = returns[s * B + b if estimator.pairing == "crosswise" else b][k]
            if estimator.kl_coef and estimator.kl_in == "reward":
                for m in steps:
                    moved = case.log_prob(case.before, r, m) - case.log_prob(case.reference, r, m)
                    rewards[m] -= estimator.kl_coef * moved.item()
            values = {m: critic.head(case.states[r, m]).item() for m in steps}
            advantages.append([0.0] * M)
            targets.append([0.0] * M)
            for i, m in enumerate(steps):
                for j in range(i, len(steps)):
                    after = values[steps[j + 1]] if j + 1 < len(steps) else 0.0
                    delta = rewards[steps[j]] + estimator.gamma * after - values[steps[j]]
                    advantages[r][m] += (estimator.gamma * estimator.gae_lambda) ** (j - i) * delta
                targets[r][m] = advantages[r][m] + values[m]
        judged = [advantages[r][m] for r in range(R) for m in range(M) if case.free(r, m)]
    else:
        baselines: Any = {
            "none": lambda g, k: 0.0,
            "moving_average": lambda g, k: memory["mean"] or 0.0,
            "greedy": lambda g, k: greedy[g],
            "value": lambda g, k: value_of_example(critic, case, g % B),
            "leave_one_out": lambda g, k: statistics.mean(returns[g][j] for j in range(K) if j != k),
            "group_mean": lambda g, k: statistics.mean(returns[g]),
        }
        of = baselines[estimator.baseline]
        advantages = [[returns[g][k] - of(g, k) for k in range(K)] for g in groups]
        judged = [a for group in advantages for a in group]
    if estimator.baseline == "moving_average":
        mean = statistics.mean(x for group in returns for x in group)
        memory["mean"] = mean if memory["mean"] is None else 0.9 * memory["mean"] + 0.1 * mean
    divisor: Any = {
        "none": lambda row: 1.0,
        "batch_sd": lambda row: statistics.pstdev(judged),
        "running_sd": lambda row: max(1.0, math.sqrt(memory["variance"])),
        "group_sd": lambda row: statistics.stdev(row) + 1e-4,
    }[estimator.normaliser]
    scaled = [[a / divisor(row) for a in row] for row in advantages]
    if estimator.normaliser == "running_sd":
        memory["variance"] = 0.9 * memory["variance"] + 0.1 * statistics.variance(judged)
    if estimator.baseline == "step_value":
        return scaled, judged, targets
    group = {(s, b): s * B + b if estimator.pairing == "crosswise" else b for s, b, _ in ROWS}
    return [[scaled[group[s, b]][k]] * M for s, b, k in ROWS], judged, None


def slow_loss(case: Case, estimator: Estimator, advantages: Steps | None) -> Tensor:
    """The policy's loss without entropy, divergence and critic, decision by decision."""
    gains: dict[tuple[int, int], Tensor] = {}
    for r in range(R):
        steps = [m for m in range(M) if case.free(r, m)]
        now = {m: case.log_prob(case.now, r, m) for m in steps}
        old = {m: case.log_prob(case.before, r, m) for m in steps}
        for m in steps:
            advantage = 1.0 if advantages is None else advantages[r][m]
            if estimator.objective != "ppo":
                gains[r, m] = advantage * now[m]
                continue
            whole = estimator.ratio == "tree"
            ratio = torch.exp(sum(now[i] - old[i] for i in (steps if whole else [m])))
            clipped = ratio.clamp(1 - estimator.clip_low, 1 + estimator.clip_high)
            gains[r, m] = torch.minimum(ratio * advantage, clipped * advantage) / (len(steps) if whole else 1)
    sums = {r: sum(gain for (row, _), gain in gains.items() if row == r) for r in {row for row, _ in gains}}
    sizes = {r: sum(row == r for row, _ in gains) for r in sums}
    return -{
        "decisions": lambda: sum(gains.values()) / len(gains),
        "parses": lambda: sum(sums[r] / sizes[r] for r in sums) / len(sums),
        "constant": lambda: sum(sums.values()) / (R * M),
        "sum": lambda: sum(sums.values()) / R,
    }[estimator.average]()


def weigh(losses: PolicyLoss, case: Case, *, reference: bool = False) -> tuple[Weighed, dict[str, Tensor]]:
    estimator = losses.estimator
    return losses.weigh(
        case.returns[estimator.pairing],
        case.decisions,
        case.judgement(case.before),
        examples=case.examples,
        greedy=case.greedy[estimator.pairing] if estimator.baseline == "greedy" else None,
        reference=MaskedDistribution(case.reference, case.legal) if reference else None,
    )


def spread(advantages: Tensor) -> Tensor:
    return advantages.unsqueeze(1).expand(R, M) if advantages.dim() == 1 else advantages


def combinations(**fixed: Any) -> list[dict[str, Any]]:
    """Baselines, normalisers and pairings that go together."""
    found = []
    for baseline, normaliser, pairing in itertools.product(
        BASELINE_NAMES, NORMALISER_NAMES, CHOICES["pairing"]
    ):
        options = {"baseline": baseline, "normaliser": normaliser, "pairing": pairing, **fixed}
        if baseline == "step_value":
            options |= {"gamma": 0.9, "gae_lambda": 0.7}
        try:
            Estimator(**options)
        except ValueError:
            continue
        found.append(options)
    return found


@pytest.mark.parametrize("options", combinations(), ids=lambda options: "-".join(map(str, options.values())))
def test_advantages_are_those_of_the_formulas(options):
    """Of three batches: what is remembered between them is of earlier ones only."""
    estimator = Estimator(**options)
    cases = [Case(seed) for seed in range(3)]
    for case in cases:
        case.returns = {name: 3.0 * values for name, values in case.returns.items()}  # so that the sd divides
    critic = cases[0].critic(estimator.baseline)
    losses = PolicyLoss(estimator, critic)
    memory: dict[str, Any] = {"mean": None, "variance": 1.0}
    for case in cases:
        expected, judged, targets = slow_weigh(case, estimator, critic, memory)
        weighed, measured = weigh(losses, case)
        assert weighed.advantages is not None
        assert not weighed.advantages.requires_grad
        free = case.judgement(case.before).distribution.free
        found = spread(weighed.advantages)
        torch.testing.assert_close(found[free], torch.tensor(expected, dtype=torch.float64)[free])
        assert found.isfinite().all()
        assert measured["train/advantage_mean"].item() == pytest.approx(statistics.mean(judged), abs=1e-9)
        assert measured["train/advantage_std"].item() == pytest.approx(statistics.pstdev(judged), abs=1e-9)
        if targets is not None:
            assert weighed.returns is not None
            torch.testing.assert_close(
                weighed.returns[free], torch.tensor(targets, dtype=torch.float64)[free]
            )
        elif estimator.baseline == "value":
            sides = case.returns[estimator.pairing].view(-1, B, K)
            torch.testing.assert_close(weighed.returns, sides.mean(0))
        else:
            assert weighed.returns is None
    if estimator.normaliser == "running_sd":
        assert memory["variance"] > 1.0


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"baseline": "step_value", "gae_lambda": 0.5},
        *({"objective": "ppo", "ratio": ratio} for ratio in RATIOS),
        *({"objective": "ppo", "ratio": ratio, "clip_low": 0.05, "clip_high": 0.6} for ratio in RATIOS),
        {"objective": "ppo", "baseline": "step_value", "normaliser": "batch_sd"},
        {"objective": "supervised", "baseline": "none"},
    ],
    ids=lambda options: "-".join(map(str, options.values())) or "defaults",
)
def test_losses_and_gradients_are_those_of_the_formulas(options, average):
    case = Case(0)
    estimator = Estimator(average=average, value_coef=0.0, **options)
    losses = PolicyLoss(estimator, case.critic(estimator.baseline))
    if estimator.objective == "supervised":
        advantages, old = None, MaskedDistribution(case.before, case.legal).log_prob(case.decisions)
        weighed = Weighed(case.decisions, None, old, None, None)
    else:
        weighed, _ = weigh(losses, case)
        assert weighed.advantages is not None
        advantages = spread(weighed.advantages).tolist()
    loss, measured = losses(weighed, case.judgement(case.now), examples=case.examples, entropy_coef=0.0)
    expected = slow_loss(case, estimator, advantages)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(measured["train/policy_loss"], expected)
    (found,), (wanted,) = (torch.autograd.grad(value, case.now) for value in (loss, expected))
    torch.testing.assert_close(found, wanted)
    assert wanted.abs().max() > 1e-3


def slow_entropy(case: Case) -> Tensor:
    found = []
    for r, m in itertools.product(range(R), range(M)):
        if case.free(r, m):
            p = torch.softmax(case.now[r, m][case.legal[r, m]], 0)
            found.append(-(p * p.log()).sum() / math.log(len(p)))
    return torch.stack(found).mean()


def test_entropy_is_weighed_per_free_decision():
    case, losses = Case(1), PolicyLoss(Estimator())
    weighed, _ = weigh(losses, case)
    options = {"examples": case.examples}
    with_it, measured = losses(weighed, case.judgement(case.now), entropy_coef=0.3, **options)
    without, _ = losses(weighed, case.judgement(case.now), entropy_coef=0.0, **options)
    torch.testing.assert_close(measured["rollout/entropy"], slow_entropy(case))
    torch.testing.assert_close(with_it, without - 0.3 * slow_entropy(case))


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("kl_in", ["loss", "reward"])
def test_a_divergence_counts_in_the_loss_or_in_the_reward(kl_in, average):
    case = Case(2)
    options = {"baseline": "step_value", "average": average, "value_coef": 0.0, "gae_lambda": 0.8}
    estimator = Estimator(kl_coef=0.4, kl_in=kl_in, **options)
    critic = case.critic("step_value")
    losses = PolicyLoss(estimator, critic)
    weighed, _ = weigh(losses, case, reference=True)
    expected, _, targets = slow_weigh(case, estimator, critic, {"mean": None, "variance": 1.0})
    free = case.judgement(case.before).distribution.free
    assert weighed.advantages is not None
    torch.testing.assert_close(weighed.advantages[free], torch.tensor(expected, dtype=torch.float64)[free])
    torch.testing.assert_close(weighed.returns[free], torch.tensor(targets, dtype=torch.float64)[free])
    loss, measured = losses(weighed, case.judgement(case.now), examples=case.examples, entropy_coef=0.0)
    divergences = {}
    for r, m in itertools.product(range(R), range(M)):
        if case.free(r, m):
            p, q = (torch.softmax(x[r, m][case.legal[r, m]], 0) for x in (case.now, case.reference))
            divergences[r, m] = (p * (p.log() - q.log())).sum()
    total = sum(divergences.values())
    sizes = [sum(row == r for row, _ in divergences) for r in range(R)]
    divergence = {
        "decisions": lambda: total / len(divergences),
        "parses": lambda: sum(d / sizes[r] for (r, _), d in divergences.items()) / sum(n > 0 for n in sizes),
        "constant": lambda: total / (R * M),
        "sum": lambda: total / R,
    }[average]()
    torch.testing.assert_close(measured["train/kl_reference"], divergence)
    of_policy = slow_loss(case, estimator, expected)
    torch.testing.assert_close(loss, of_policy + (0.4 * divergence if kl_in == "loss" else 0.0))


@pytest.mark.parametrize("baseline", ["value", "step_value"])
def test_a_critic_is_fitted_to_the_returns_and_moves_nothing_else(baseline):
    case = Case(3)
    critic = case.critic(baseline)
    losses = PolicyLoss(Estimator(baseline=baseline, value_coef=0.25), critic)
    weighed, _ = weigh(losses, case)
    options = {"examples": case.examples, "entropy_coef": 0.0}
    loss, measured = losses(weighed, case.judgement(case.now), **options)
    assert weighed.returns is not None
    errors = []
    if baseline == "value":
        for b, k in itertools.product(range(B), range(K)):
            errors.append((value_of_example(critic, case, b) - case.returns["matched"][b, k].item()) ** 2)
    else:
        for r, m in itertools.product(range(R), range(M)):
            if case.free(r, m):
                value = critic.head(case.states[r, m]).item()
                errors.append((value - weighed.returns[r, m].item()) ** 2)
    assert measured["train/value_loss"].item() == pytest.approx(statistics.mean(errors))
    alone = PolicyLoss(Estimator(baseline=baseline, value_coef=0.0), critic)
    torch.testing.assert_close(
        loss, alone(weighed, case.judgement(case.now), **options)[0] + 0.25 * statistics.mean(errors)
    )
    loss.backward()
    of_both = case.now.grad
    case.now.grad = None
    alone(weighed, case.judgement(case.now), **options)[0].backward()
    torch.testing.assert_close(of_both, case.now.grad)
    assert all(weight.grad is not None for weight in critic.parameters())


def test_what_is_measured_of_ratios():
    case = Case(4)
    losses = PolicyLoss(Estimator(objective="ppo", clip_low=0.1, clip_high=0.3))
    weighed, _ = weigh(losses, case)
    _, measured = losses(weighed, case.judgement(case.now), examples=case.examples, entropy_coef=0.0)
    logs = [
        (case.log_prob(case.now, r, m) - case.log_prob(case.before, r, m)).item()
        for r, m in itertools.product(range(R), range(M))
        if case.free(r, m)
    ]
    outside = [not 0.9 <= math.exp(x) <= 1.3 for x in logs]
    assert measured["train/clip_fraction"].item() == pytest.approx(statistics.mean(outside))
    assert measured["train/approx_kl"].item() == pytest.approx(
        statistics.mean(math.exp(x) - 1 - x for x in logs)
    )
    assert 0 < sum(outside) < len(outside)


@pytest.mark.parametrize("normaliser", ["none", "batch_sd", "running_sd"])
@pytest.mark.parametrize("baseline", ["leave_one_out", "step_value"])
def test_a_batch_without_a_choice_teaches_nothing(baseline, normaliser):
    case = Case(5)
    case.legal[:] = torch.tensor([True, False, False])
    losses = PolicyLoss(Estimator(baseline=baseline, normaliser=normaliser), case.critic(baseline))
    weighed, measured = weigh(losses, case)
    loss, more = losses(weighed, case.judgement(case.now), examples=case.examples, entropy_coef=0.1)
    assert loss.item() == 0.0
    assert all(value.isfinite() for value in (measured | more).values())
    assert not torch.autograd.grad(loss, case.now)[0].any()


@pytest.mark.parametrize("options", [{"baseline": "moving_average"}, {"normaliser": "running_sd"}])
def test_what_is_remembered_can_be_saved(options):
    ours, theirs = (PolicyLoss(Estimator(**options)) for _ in range(2))
    for seed in range(2):
        weigh(ours, Case(seed))
    theirs.load_state_dict(ours.state_dict())
    assert theirs.state_dict() == ours.state_dict() != PolicyLoss(Estimator(**options)).state_dict()
    assert ours.state_dict().keys() == {"moving_average", "running_sd"}
    one, other = (weigh(losses, Case(2))[0].advantages for losses in (ours, theirs))
    torch.testing.assert_close(one, other)
