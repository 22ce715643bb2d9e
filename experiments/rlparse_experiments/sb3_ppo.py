"""Stable-Baselines3's PPO learns to parse, taught by a classifier that learns beside it: a file to read downwards.

    python -m rlparse_experiments.sb3_ppo                    # about a minute of one core
    python -m rlparse_experiments.sb3_ppo --steps 20000      # a first look

Nobody shows the agent a tree. It parses little sums (ListOps: `[MAX 2 9 [MIN 4 7 ] 0 ]` is 9), an encoder composes what
it built, a classifier says the value, and the log-probability of the right value is the reward.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.utils import set_random_seed

from rlparse.corpora.corpus import Corpus
from rlparse.corpora.listops import embedded_listops
from rlparse.models.nli_model import NLIModel
from rlparse.vocabulary import Vocabulary
from rlparse_agents.sb3_encoder_training import EncoderTrainingCallback
from rlparse_agents.sb3_features import TrackerFeatures
from rlparse_envs import ShiftReduceVectorEnv
from rlparse_envs.sb3 import ShiftReduceVecEnv


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all of it."""
    parser = argparse.ArgumentParser(
        prog="python -m rlparse_experiments.sb3_ppo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=600_000, help="transitions to learn from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tensorboard", metavar="FOLDER", help="write curves for TensorBoard there")
    options = parser.parse_args(arguments)
    set_random_seed(options.seed)
    torch.set_num_threads(1)  # small matrices are fastest that way

    # ---------------------------------------------------------------------------------------------------- 1. Data
    # Expressions of 4 to 12 words, with gold trees that are used for measuring alone.
    train, dev, _ = embedded_listops(8000, 400, 1, seed=0, min_tokens=4, max_tokens=12)
    vocabulary = Vocabulary.build(train.token_counts())
    train, dev = train.with_vocabulary(vocabulary), dev.with_vocabulary(vocabulary)

    # ---------------------------------------------------------------------------------------------- 2. Classifier
    # It composes every sentence along the tree that it is given. Untrained, it knows nothing of sums.
    model = NLIModel(
        len(vocabulary),
        len(train.labels),
        n_sides=1,
        embedding_size=32,
        hidden_size=32,
        composition="gated",
        mlp_size=64,
        dropout=0.0,
    )

    # ---------------------------------------------------------------------------------------------------- 3. Game
    # 128 parsers at once: SHIFT a word, or REDUCE two trees to one. The reward comes with the last transition.
    def game(corpus: Corpus, parsers: int) -> ShiftReduceVecEnv:
        return ShiftReduceVecEnv(
            ShiftReduceVectorEnv(
                parsers,
                corpus,
                reward="log_likelihood",
                model=model,
                max_tokens=12,
                autoreset_mode="SameStep",
            )
        )

    # --------------------------------------------------------------------------------------------------- 4. Agent
    # An ordinary PPO. It sees what SPINN's Tracker sees: the next word and the two trees on top of the stack, composed
    # by weights of its own. gamma = 1: the reward at the end belongs to every transition alike.
    agent = PPO(
        "MultiInputPolicy",
        game(train, 128),
        policy_kwargs={
            "features_extractor_class": TrackerFeatures,
            "features_extractor_kwargs": {"embedding_size": 32, "hidden_size": 32},
            "ortho_init": False,
            "net_arch": [64],
        },
        n_steps=64,
        batch_size=1024,
        n_epochs=2,
        learning_rate=1e-3,
        gamma=1.0,
        gae_lambda=1.0,
        ent_coef=0.05,
        seed=options.seed,
        device="cpu",
        verbose=0,
        tensorboard_log=options.tensorboard,
    )

    # ----------------------------------------------------------------------------------------------- 5. Two learners
    # While PPO plays, the classifier takes a step of its own whenever 32 more parses are finished.
    teaching = EncoderTrainingCallback(learning_rate=2e-3, batch_size=32)
    print(f"{options.steps} transitions, {len(train)} expressions, {len(train.labels)} values")
    agent.learn(options.steps, callback=teaching)
    print(f"the classifier took {teaching.n_updates} steps\n")

    # ------------------------------------------------------------------------------------------------- 6. Measuring
    # Greedy parses of expressions that nobody has seen, beside trees that need no agent, read by the same classifier.
    def by_agent(observation: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
        actions, _ = agent.predict(observation, deterministic=True)
        return np.asarray(actions, np.int64)

    def shift_first(observation: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
        return 1 - observation["action_mask"][:, 0].astype(np.int64)

    def reduce_first(observation: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
        return observation["action_mask"][:, 1].astype(np.int64)

    chance = np.random.default_rng(options.seed)

    def at_random(observation: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
        return chance.integers(0, 2, len(observation["action_mask"]))

    print(f"{'trees':16} {'accuracy':>8} {'gold F1':>8}")
    parsers: dict[str, Callable[[dict[str, npt.NDArray[Any]]], npt.NDArray[np.int64]]] = {
        "PPO": by_agent,
        "left-branching": reduce_first,
        "right-branching": shift_first,
        "random": at_random,
    }
    ends: dict[str, list[dict[str, Any]]] = {}
    for name, choose in parsers.items():
        envs = game(dev, len(dev))
        envs.seed(options.seed)
        observation: Any = envs.reset()
        over = np.zeros(len(dev), np.bool_)
        ends[name] = []
        while not over.all():  # one episode each
            observation, _, dones, infos = envs.step(choose(observation))
            ends[name] += [infos[row] for row in np.flatnonzero(dones & ~over)]
            over |= dones
        accuracy = np.mean([info["is_success"] for info in ends[name]])
        f1 = np.mean([info["reward_parts"]["gold_f1"] for info in ends[name]])
        print(f"{name:16} {100 * accuracy:8.1f} {100 * f1:8.1f}")

    # ----------------------------------------------------------------------------------------------------- 7. Trees
    print("\nwhat PPO built, and the gold tree:")
    for info in ends["PPO"][:3]:
        (parse,), (gold,) = info["parses"], info["gold_parses"]
        print(f"  {parse}\n  {gold}   value {info['label']}, read as {info['prediction']}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
