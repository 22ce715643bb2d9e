"""Every algorithm of Stable-Baselines3 that fits the game learns to parse, within seconds, far better than chance."""

from __future__ import annotations

import numpy as np
import pytest
from sb3_contrib import MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_masked
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.evaluation import evaluate_policy

from rlparse import trees
from rlparse.corpora.corpus import Corpus
from rlparse.corpora.examples import Example, Sentence
from rlparse.vocabulary import Vocabulary
from rlparse_agents.sb3_features import TrackerFeatures
from rlparse_agents.sb3_masked_recurrent import MaskableRecurrentPPO
from rlparse_envs import BranchingF1Reward, ShiftReduceVectorEnv
from rlparse_envs.sb3 import ShiftReduceVecEnv


@pytest.fixture(scope="module")
def told():
    """80 sentences of 4 to 6 words, the first of which says which way their trees branch."""
    rng = np.random.default_rng(0)
    examples = []
    for k in range(80):
        branching = (trees.left_branching, trees.right_branching)[k % 2]
        n = int(rng.integers(4, 7))
        words = (("left", "right")[k % 2], *map(str, rng.choice(["a", "b", "c"], n - 1)))
        examples.append(Example((Sentence(words, tuple(map(int, branching(n)))),), "x"))
    corpus = Corpus.from_examples(examples, name="told")
    return corpus.with_vocabulary(Vocabulary.build(corpus.token_counts()))


def parsers(corpus, num_envs, **arguments):
    envs = ShiftReduceVecEnv(
        ShiftReduceVectorEnv(num_envs, corpus, autoreset_mode="SameStep", episode_info=False, **arguments)
    )
    envs.seed(0)
    return envs


def mean_return(envs, choose):
    """Of 50 steps of all parsers, each transition legal."""
    envs.reset()
    returns = []
    for _ in range(50):
        masks = np.stack(envs.env_method("action_masks"))
        _, rewards, dones, _ = envs.step(np.where(masks.all(1), choose(len(masks)), masks[:, 1]))
        returns += rewards[dones].tolist()
    return np.mean(returns)


PPOS = {"n_steps": 32, "batch_size": 256, "n_epochs": 4, "learning_rate": 2e-3}
LSTM = {"lstm_hidden_size": 32, "enable_critic_lstm": False}
TRACKER = {
    "features_extractor_class": TrackerFeatures,
    "features_extractor_kwargs": {"embedding_size": 16, "hidden_size": 16},
    "ortho_init": False,
}
LEARNERS = {
    "PPO": (PPO, "MlpPolicy", 16_384, PPOS),
    "A2C": (A2C, "MlpPolicy", 32_768, {"n_steps": 16, "learning_rate": 2e-3}),
    "MaskablePPO": (MaskablePPO, "MlpPolicy", 16_384, PPOS),
    "RecurrentPPO": (RecurrentPPO, "MlpLstmPolicy", 16_384, PPOS | {"policy_kwargs": LSTM}),
    "PPO, tracker": (PPO, "MultiInputPolicy", 16_384, PPOS | {"policy_kwargs": TRACKER}),
    "MaskableRecurrentPPO, tracker": (
        MaskableRecurrentPPO,
        "MaskedMultiInputLstmPolicy",
        16_384,
        PPOS | {"policy_kwargs": LSTM | TRACKER},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("learner", LEARNERS)
def test_they_learn_trees_that_depend_on_a_word(learner, told):
    algorithm, policy, steps, settings = LEARNERS[learner]
    options = {"observation": "features" if policy.startswith("Mlp") else "symbolic"}
    agent = algorithm(
        policy, parsers(told, 32, **options), **settings, gamma=1.0, seed=0, device="cpu"
    ).learn(steps)
    evaluate = evaluate_masked if algorithm is MaskablePPO else evaluate_policy
    learned, _ = evaluate(agent, parsers(told, 16, **options), 200)
    rng = np.random.default_rng(0)
    others = {
        "random": mean_return(parsers(told, 64), lambda n: rng.integers(0, 2, n)),
        "left": mean_return(parsers(told, 64), lambda n: np.ones(n, np.int64)),
        "right": mean_return(parsers(told, 64), lambda n: np.zeros(n, np.int64)),
    }
    assert max(others.values()) < 0.75
    assert learned > 0.95


@pytest.mark.slow
def test_dqn_learns_right_branching_trees(told):
    """The reward at the end travels back through one bootstrapped value after the other, so the task is easier."""
    options = {"observation": "features", "reward": BranchingF1Reward("right")}
    agent = DQN(
        "MlpPolicy",
        parsers(told, 32, **options),
        learning_rate=1e-3,
        gamma=0.9,
        batch_size=128,
        buffer_size=20_000,
        learning_starts=1000,
        train_freq=4,
        gradient_steps=8,
        target_update_interval=200,
        exploration_fraction=0.3,
        seed=0,
        device="cpu",
    ).learn(24_576)
    learned, _ = evaluate_policy(agent, parsers(told, 16, **options), 200)
    rng = np.random.default_rng(0)
    chance = mean_return(parsers(told, 64, **options), lambda n: rng.integers(0, 2, n))
    assert chance < 0.65
    assert learned > 0.8
