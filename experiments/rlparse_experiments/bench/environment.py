"""Environments side by side: random transitions, whole steps of the game, observations included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from gymnasium.vector import SyncVectorEnv
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from rlparse.corpora.corpus import Corpus
from rlparse_envs.batched import ShiftReduceVectorEnv
from rlparse_envs.sb3 import ShiftReduceVecEnv
from rlparse_envs.shift_reduce import ShiftReduceEnv
from rlparse_experiments.bench.measuring import Contender, Section, Work
from rlparse_experiments.bench.workload import draw_corpus
from rlparse_experiments.config import BenchConfig

SINGLE, SYNC, DUMMY = "ShiftReduceEnv", "Gymnasium SyncVectorEnv(8)", "SB3 DummyVecEnv(8)"
ADAPTED = "ShiftReduceVecEnv"
NUMPY, TORCH = "ShiftReduceVectorEnv, numpy", "ShiftReduceVectorEnv, torch"
VECTOR = 8
"""Parsers of the vector environments that others ship."""

BATCHED = 4096
"""Parsers of the batched environment."""

COLLECTED, COLLECTED_STEPS = 512, 32
"""Parsers from which Stable-Baselines3 collects, and the steps of each that it collects at a time."""

STEPS = 500
"""Transitions that are timed together, at least."""

PAIRS = 2000
"""Pairs of sentences that are played."""


def single_work(corpus: Corpus, seed: int) -> Work:
    """Play one parser, example after example."""
    env = ShiftReduceEnv(corpus)
    env.reset(seed=seed)
    actions = np.random.default_rng(seed).integers(2, size=STEPS)

    def work() -> int:
        for action in actions:
            if env.step(action)[2]:
                env.reset()
        return STEPS

    return work


def vector_work(make: Callable[[], Any], n_envs: int, seed: int) -> Work:
    """Play a vector environment; all of them start the next example by themselves."""
    env = make()
    env.seed(seed) if isinstance(env, DummyVecEnv) else env.reset(seed=seed)
    env.reset()
    calls = max(STEPS // n_envs, 20)
    actions = np.random.default_rng(seed).integers(2, size=(calls, n_envs))

    def work() -> int:
        for row in actions:
            env.step(row)
        return calls * n_envs

    return work


class CollectingPPO(PPO):
    """PPO that only collects."""

    def train(self) -> None:
        """Learn nothing from what was collected."""


def collecting_work(env: VecEnv, seed: int) -> Work:
    """Collect with the small policy that PPO has by default, on features of the game."""
    agent = CollectingPPO("MlpPolicy", env, n_steps=COLLECTED_STEPS, seed=seed, device="cpu")
    agent.set_logger(Logger(folder=None, output_formats=[]))
    steps = env.num_envs * COLLECTED_STEPS

    def work() -> int:
        agent.learn(steps, reset_num_timesteps=False)
        return steps

    return work


def collecting(n_envs: int, seed: int) -> list[Contender]:
    """Give the ways in which Stable-Baselines3 can collect."""
    corpus = draw_corpus(PAIRS, np.random.default_rng(seed))
    one = partial(ShiftReduceEnv, corpus, observation="features")

    def adapted() -> VecEnv:
        many = ShiftReduceVectorEnv(
            n_envs, corpus, observation="features", autoreset_mode="SameStep", episode_info=False
        )
        return ShiftReduceVecEnv(many)

    return [
        Contender(ADAPTED, lambda: collecting_work(adapted(), seed)),
        Contender(DUMMY, lambda: collecting_work(DummyVecEnv([one] * VECTOR), seed)),
    ]


def sections(config: BenchConfig) -> list[Section]:
    """Give what ``rlparse bench env`` measures."""
    batched = VECTOR if config.quick else BATCHED

    def build() -> list[Contender]:
        corpus = draw_corpus(PAIRS, np.random.default_rng(config.seed))
        one = partial(ShiftReduceEnv, corpus)
        many = partial(ShiftReduceVectorEnv, batched, corpus, episode_info=False)
        shipped: Mapping[str, tuple[Callable[[], Any], int]] = {
            NUMPY: (many, batched),
            TORCH: (partial(many, output="torch"), batched),
            SYNC: (partial(SyncVectorEnv, [one] * VECTOR), VECTOR),
            DUMMY: (partial(DummyVecEnv, [one] * VECTOR), VECTOR),
        }
        return [
            *(
                Contender(name, partial(vector_work, make, n_envs, config.seed))
                for name, (make, n_envs) in shipped.items()
            ),
            Contender(SINGLE, partial(single_work, corpus, config.seed)),
        ]

    collected = VECTOR if config.quick else COLLECTED
    return [
        Section(
            "env/steps", f"environment, symbolic observations, {batched:,} parsers batched", "steps/s", build
        ),
        Section(
            "env/collecting",
            f"PPO's default policy collecting, features, {collected} parsers batched",
            "steps/s",
            partial(collecting, collected, config.seed),
        ),
    ]
