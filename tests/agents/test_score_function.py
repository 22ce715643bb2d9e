"""The score-function gradient is the exact gradient of the expected reward, by enumerating everything it sums over."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from torch import Tensor

from rlparse import lockstep
from rlparse.corpora.batching import Batch
from rlparse.corpora.corpus import Corpus
from rlparse_agents.baselines import BASELINES
from rlparse_agents.estimator import Estimator
from rlparse_agents.losses import policy_gradient_loss
from rlparse_agents.policy import TrackerPolicy
from rlparse_agents.policy_gradient import PolicyGradient
from rlparse_agents.rollout import Rollout
from rlparse_envs import ShiftReduceEnv
from slow_reference import all_derivations, derivation_log_prob, padded, plain_batch


def build(n_words: int, **options) -> TrackerPolicy:
    torch.manual_seed(0)
    policy = TrackerPolicy(
        spaces.Dict({"tokens": spaces.Box(0, n_words, (1,), np.int64)}),
        spaces.Discrete(2),
        n_tokens=n_words,
        embedding_size=3,
        hidden_size=3,
        tracker_size=3,
        **options,
    ).double()
    randomise_(policy)
    return policy


def randomise_(policy: TrackerPolicy) -> None:
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_()


def gradient_by_autograd(policy: TrackerPolicy, value: Tensor) -> list[Tensor]:
    weights = list(policy.parameters())
    found = torch.autograd.grad(value, weights, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]


def random_rewards(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("n", "baseline", "n_parses", "catalan_prior"),
    [
        *itertools.product([3, 4, 5], ["leave_one_out"], [2], [False, True]),
        *itertools.product([3, 4, 5], ["none"], [1, 2], [False]),
        (4, "leave_one_out", 3, False),
        (6, "leave_one_out", 2, False),
        (6, "none", 1, True),
    ],
)
def test_its_expectation_over_all_tuples_of_parses_is_the_exact_gradient(
    n, baseline, n_parses, catalan_prior
):
    """E[1/K sum_k A_k sum_t grad log pi] = grad sum_parses p R, for K parses drawn independently."""
    policy = build(10, catalan_prior=catalan_prior)
    tokens = list(range(2, 2 + n))
    derivations = all_derivations(n)
    rewards = random_rewards(len(derivations))

    slow = torch.stack([derivation_log_prob(policy, tokens, derivation) for derivation in derivations])
    exact = gradient_by_autograd(policy, (slow.exp() * rewards).sum())

    batch, transitions = plain_batch([[tokens]] * len(derivations)), padded(derivations)
    judged = policy.judge(Rollout.of(batch.tokens, batch.lengths, transitions)).distribution
    log_probs, free = judged.log_prob(transitions), judged.free
    probabilities = log_probs.detach().sum(1).exp()
    expected = log_probs.new_zeros(())
    for drawn in itertools.product(range(len(derivations)), repeat=n_parses):
        rows = list(drawn)
        advantages = BASELINES[baseline](rewards[rows].unsqueeze(0)).flatten()
        loss = policy_gradient_loss(log_probs[rows], advantages, free[rows])
        total = -loss * free[rows].sum() / n_parses  # the loss is a mean over free decisions
        expected = expected + probabilities[rows].prod() * total
    estimated = gradient_by_autograd(policy, expected)

    tolerance = 1e-6 if catalan_prior else 1e-10  # the prior is in single precision
    torch.testing.assert_close(estimated, exact, rtol=0, atol=tolerance)
    assert max(gradient.abs().max().item() for gradient in exact) > 1e-3


def test_leave_one_out_varies_less_than_no_baseline():
    """Same expectation, smaller variance, when rewards are far from 0."""
    policy = build(10)
    derivations = all_derivations(4)
    rewards = random_rewards(len(derivations)) + 5
    batch, transitions = plain_batch([[[2, 3, 4, 5]]] * len(derivations)), padded(derivations)
    judged = policy.judge(Rollout.of(batch.tokens, batch.lengths, transitions)).distribution
    log_probs = judged.log_prob(transitions).sum(1)
    scores = [
        torch.cat([g.flatten() for g in torch.autograd.grad(x, list(policy.parameters()), retain_graph=True)])
        for x in log_probs
    ]
    p = log_probs.detach().exp()
    variances = []
    for baseline in ("leave_one_out", "none"):
        mean = square = 0.0
        for i, j in itertools.product(range(len(derivations)), repeat=2):
            advantages = BASELINES[baseline](rewards[[i, j]].unsqueeze(0)).flatten()
            estimate = (advantages[0] * scores[i] + advantages[1] * scores[j]) / 2
            mean = mean + p[i] * p[j] * estimate
            square = square + p[i] * p[j] * estimate.square()
        variances.append(float((square - mean.square()).sum()))
    assert variances[0] < 0.5 * variances[1]


# ------------------------------------------------------------------------- the same, through the whole algorithm


class Recorder(PolicyGradient):
    """Tells the gradients of its losses instead of following them."""

    policy: TrackerPolicy

    def gradient_of(self, batch: Batch, transitions: Tensor, rewards: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Loss and gradient for these parses and rewards."""
        rollout = Rollout.of(batch.tokens, batch.lengths, transitions)
        examples = Batch(*(field[:: self.n_parses] for field in batch))
        judgement = self.policy.judge(rollout)
        weighed = self._weigh(examples, rollout, judgement, rewards, None)
        loss = self._loss_of_policy(weighed, judgement, examples)
        return loss.detach(), gradient_by_autograd(self.policy, loss)


@pytest.fixture
def make_recorder(pairs: Corpus) -> Callable[..., Recorder]:
    def make(**options) -> Recorder:
        agent = Recorder(
            "TrackerPolicy",
            ShiftReduceEnv(pairs),
            policy_kwargs={
                "n_tokens": len(pairs.vocabulary),
                "embedding_size": 3,
                "hidden_size": 3,
                "tracker_size": 3,
                "catalan_prior": False,
            },
            seed=0,
            device="cpu",
            **options,
        )
        agent.set_logger(Logger(None, []))
        agent.policy.double()
        randomise_(agent.policy)
        return agent

    return make


PREMISES, HYPOTHESES = [2, 3, 4, 5], [6, 3, 7]


@pytest.mark.parametrize(("baseline", "n_parses"), [("leave_one_out", 2), ("none", 1)])
def test_the_algorithm_follows_the_exact_gradient_of_a_reward_of_both_parses(
    make_recorder, baseline, n_parses
):
    """The reward depends on premise's and hypothesis's parse together; all pairs of such pairs are enumerated."""
    agent = make_recorder(estimator=Estimator(baseline=baseline), n_parses=n_parses, entropy_coef=0.0)
    joint = list(itertools.product(all_derivations(4), all_derivations(3)))
    rewards = random_rewards(len(joint))

    slow = {
        side: [derivation_log_prob(agent.policy, tokens, d) for d in all_derivations(len(tokens))]
        for side, tokens in (("p", PREMISES), ("h", HYPOTHESES))
    }
    log_probs = torch.stack([p + h for p, h in itertools.product(slow["p"], slow["h"])])
    exact = gradient_by_autograd(agent.policy, (log_probs.exp() * rewards).sum())

    probabilities = log_probs.detach().exp()
    example = plain_batch([[PREMISES, HYPOTHESES]]).repeat(n_parses)
    estimated = [torch.zeros_like(parameter) for parameter in agent.policy.parameters()]
    for drawn in itertools.product(range(len(joint)), repeat=n_parses):
        parses = [joint[i][side] for side in range(2) for i in drawn]
        transitions = padded(parses, 4)
        _, gradient = agent.gradient_of(example, transitions, rewards[list(drawn)])
        trace = lockstep.trace(transitions, example.lengths)
        n_free = int(trace.legal.all(-1).sum())
        weight = probabilities[list(drawn)].prod()
        for total, part in zip(estimated, gradient, strict=True):
            total -= weight * part * n_free / n_parses
    torch.testing.assert_close(estimated, exact, rtol=0, atol=1e-10)


def sampled(agent: Recorder, pairs: Corpus, n_parses: int) -> tuple[Batch, Tensor]:
    batch = pairs.batch(np.arange(len(pairs))).repeat(n_parses)
    return batch, agent.policy.derive(batch, generator=torch.Generator().manual_seed(0))


def test_equal_rewards_leave_the_entropy_alone(make_recorder, pairs):
    agent = make_recorder(entropy_coef=0.3)
    batch, transitions = sampled(agent, pairs, 4)
    loss, gradient = agent.gradient_of(batch, transitions, torch.full((16,), 0.5, dtype=torch.float64))

    judged = agent.policy.judge(Rollout.of(batch.tokens, batch.lengths, transitions)).distribution
    p = judged.log_probs[judged.free].exp()
    entropy = -(p * p.log2()).sum(-1).mean()  # in bits, which is normalised by the log of two options
    assert loss.item() == pytest.approx(-0.3 * entropy.item(), abs=1e-10)
    torch.testing.assert_close(
        gradient, gradient_by_autograd(agent.policy, -0.3 * entropy), rtol=0, atol=1e-10
    )
    assert 0 < entropy.item() < 1


@pytest.mark.parametrize("n_parses", [2, 4])
def test_both_sentences_of_an_example_share_its_advantage(make_recorder, pairs, n_parses):
    agent = make_recorder(entropy_coef=0.0, n_parses=n_parses)
    batch, transitions = sampled(agent, pairs, n_parses)
    rewards = random_rewards(4 * n_parses)
    loss, _ = agent.gradient_of(batch, transitions, rewards)
    judged = agent.policy.judge(Rollout.of(batch.tokens, batch.lengths, transitions)).distribution
    log_probs = judged.log_prob(transitions).sum(1)
    total = 0.0
    for side, b, k in itertools.product(range(2), range(4), range(n_parses)):
        own = [rewards[b * n_parses + j].item() for j in range(n_parses)]
        advantage = own[k] - (sum(own) - own[k]) / (n_parses - 1)
        total += advantage * log_probs[side * 4 * n_parses + b * n_parses + k].item()
    assert loss.item() == pytest.approx(-total / int(judged.free.sum()), abs=1e-10)


def test_normalised_advantages_make_the_scale_of_rewards_irrelevant(make_recorder, pairs):
    rewards = random_rewards(16)
    gradients = {}
    for normalise in (False, True):
        agent = make_recorder(
            entropy_coef=0.0, estimator=Estimator(normaliser="batch_sd" if normalise else "none")
        )
        batch, transitions = sampled(agent, pairs, 4)
        gradients[normalise] = [
            torch.cat([g.flatten() for g in agent.gradient_of(batch, transitions, scale * rewards)[1]])
            for scale in (1.0, 10.0)
        ]
    torch.testing.assert_close(gradients[True][1], gradients[True][0], rtol=0, atol=1e-10)
    torch.testing.assert_close(gradients[False][1], 10 * gradients[False][0], rtol=0, atol=1e-10)
    one = rewards.view(4, 4)
    advantages = one - (one.sum(1, keepdim=True) - one) / 3
    spread = advantages.square().mean().sqrt()  # their mean is 0
    torch.testing.assert_close(gradients[True][0] * spread, gradients[False][0], rtol=0, atol=1e-10)


def test_equal_rewards_can_be_normalised(make_recorder, pairs):
    agent = make_recorder(entropy_coef=0.0, estimator=Estimator(normaliser="batch_sd"))
    batch, transitions = sampled(agent, pairs, 4)
    loss, gradient = agent.gradient_of(batch, transitions, torch.ones(16, dtype=torch.float64))
    assert loss.item() == 0.0
    assert not any(part.any() for part in gradient)
