"""Small agents on small corpora, and what tests ask of them."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from torch import Tensor

from rlparse.corpora.corpus import Corpus
from rlparse.models.nli_model import NLIModel
from rlparse_agents.policy_gradient import PolicyGradient
from rlparse_envs import ShiftReduceEnv
from rlparse_envs.rewards import Reward


class Recording(KVWriter):
    """Keeps what a logger would write."""

    def __init__(self) -> None:
        self.points: list[tuple[int, dict[str, Any]]] = []

    def write(self, key_values, key_excluded, step=0):
        self.points.append((step, dict(key_values)))

    def close(self) -> None:
        pass

    def curve(self, tag: str) -> list[float]:
        return [values[tag] for _, values in self.points]


def model_of(corpus: Corpus, **options) -> NLIModel:
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_size": 8, "mlp_size": 16, "dropout": 0.1} | options
    return NLIModel(len(corpus.vocabulary), len(corpus.labels), n_sides=corpus.n_sides, **sizes)


def agent_of(
    corpus: Corpus,
    reward: str | Reward = "gold_f1",
    *,
    model: NLIModel | None = None,
    policy: str | type = "TrackerPolicy",
    policy_kwargs: dict[str, Any] | None = None,
    **options,
) -> PolicyGradient:
    """A small agent on the CPU, of seed 0 unless told otherwise."""
    if policy_kwargs is None:
        policy_kwargs = {
            "n_tokens": len(corpus.vocabulary),
            "embedding_size": 8,
            "hidden_size": 8,
            "tracker_size": 8,
        }
    env = ShiftReduceEnv(corpus, reward=reward, model=model)
    defaults = {"batch_size": 4, "seed": 0, "device": "cpu"}
    return PolicyGradient(policy, env, policy_kwargs=policy_kwargs, **(defaults | options))


def recording(agent: PolicyGradient) -> Recording:
    """Let an agent log every iteration to memory only."""
    writer = Recording()
    agent.log_interval = 1
    agent.set_logger(Logger(None, [writer]))
    return writer


def iterate(agent: PolicyGradient, n: int) -> PolicyGradient:
    """Learn for n iterations."""

    class StopAfter(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls < n

    return agent.learn(10**9, callback=StopAfter())


def weights_of(module: torch.nn.Module | None) -> dict[str, Tensor]:
    assert module is not None
    return {name: value.clone() for name, value in module.state_dict().items()}


def same_weights(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def moved(agent: PolicyGradient, n: int) -> list[str]:
    """Learn for n iterations; who had other weights after each: p for the policy, e for the encoder."""
    found = []
    for _ in range(n):
        before = weights_of(agent.policy), weights_of(agent.model)
        iterate(agent, 1)
        after = weights_of(agent.policy), weights_of(agent.model)
        found.append(
            "".join(who for who, a, b in zip("pe", before, after, strict=True) if not same_weights(a, b))
        )
    return found
