"""``is_success`` is the correctness of the model's class wherever there is a model, in every environment alike."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure

from rlparse.models.nli_model import NLIModel
from rlparse_envs import AccuracyReward, BranchingF1Reward, ShiftReduceEnv, ShiftReduceVectorEnv
from rlparse_envs.sb3 import ShiftReduceVecEnv


def shifts(batch, transitions):
    """Pay for long sentences."""
    return batch.lengths.view(batch.n_sides, -1).float().mean(0)


REWARDS = ["gold_f1", "log_likelihood", "accuracy", BranchingF1Reward("left"), shifts]


def class_of(model, corpus, info):
    """What the model says of the parses that an episode ended with."""
    batch = corpus.batch([info["example"]])
    transitions = torch.full((batch.n_sides, 2 * batch.tokens.shape[1] - 1), 2)
    for side, derivation in enumerate(info["derivations"]):
        transitions[side, : len(derivation)] = torch.tensor(derivation)
    model.eval()
    with torch.no_grad():
        return corpus.labels[int(model(batch, transitions).argmax())]


@pytest.mark.parametrize("reward", REWARDS)
def test_success_is_the_right_class(reward, pairs, model):
    single = ShiftReduceEnv(pairs, reward=reward, model=model, order="sequential")
    rng = np.random.default_rng(0)
    outcomes = []
    for _ in range(12):
        single.reset()
        ended = False
        while not ended:
            *_, ended, _, info = single.step(int(rng.integers(2)))
        assert info["prediction"] == class_of(model, pairs, info)
        assert info["is_success"] == (info["prediction"] == info["label"])
        assert info["reward_parts"]["accuracy"] == info["is_success"]
        assert info["reward_parts"]["log_likelihood"] < 0
        outcomes.append(info["is_success"])
    assert 0 < sum(outcomes) < 12


@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize("episode_info", [True, False])
def test_batched_environments_agree(reward, episode_info, pairs, model):
    options = {"reward": reward, "model": model, "observation": "features"}
    single = SyncVectorEnv([partial(ShiftReduceEnv, pairs, **options)] * 3)
    batched = ShiftReduceVectorEnv(3, pairs, episode_info=episode_info, **options)
    adapter = ShiftReduceVecEnv(
        ShiftReduceVectorEnv(3, pairs, episode_info=episode_info, autoreset_mode="SameStep", **options)
    )
    for envs in (single, batched):
        envs.reset(seed=0)
    adapter.seed(0)
    adapter.reset()
    rng = np.random.default_rng(0)
    expected, found, adapted = [], [], []
    for _ in range(120):
        actions = rng.integers(0, 2, 3)
        for envs, ends in ((single, expected), (batched, found)):
            infos = envs.step(actions)[4]
            there = infos.get("_is_success", np.zeros(3, np.bool_))
            ends += infos["is_success"][there].tolist() if there.any() else []
        *_, dones, infos = adapter.step(actions)
        adapted += [info["is_success"] for info, done in zip(infos, dones, strict=True) if done]
    assert expected == found
    assert len(expected) > 10
    assert len(adapted) > 10
    assert all(type(success) is bool for success in adapted)


def test_the_model_of_the_reward_is_asked_before_that_of_the_environment(pairs, model):
    torch.manual_seed(1)
    other = NLIModel(len(pairs.vocabulary), 3, embedding_size=4, hidden_size=4, mlp_size=4)
    env = ShiftReduceEnv(pairs, reward=AccuracyReward(other), model=model)
    for example in range(4):
        env.reset(options={"example": example})
        ended = False
        while not ended:
            *_, ended, _, info = env.step(0)
        assert info["prediction"] == class_of(other, pairs, info)


def test_typed_sentences_without_a_class_have_no_success(pairs, model):
    """In one step with others that do."""
    options = {"model": model, "reward": BranchingF1Reward("right")}
    single = SyncVectorEnv([partial(ShiftReduceEnv, pairs, **options)] * 3, autoreset_mode="Disabled")
    batched = ShiftReduceVectorEnv(3, pairs, autoreset_mode="Disabled", **options)
    rows = np.eye(3, dtype=np.bool_)
    asked = (
        {"example": 1},
        {"sentences": ["Two women run", "Nobody runs ."]},
        {"sentences": ["Two women run", "Nobody runs ."], "label": "neutral"},
    )
    ends = []
    for envs in (single, batched):
        envs.reset(seed=0)
        for mask, typed in zip(rows, asked, strict=True):
            envs.reset(options={"reset_mask": mask, **typed})
        for _ in range(10):
            *_, infos = envs.step(np.zeros(3, np.int64))
        ends.append(infos)
    for infos in ends:
        # Without a model to ask, an F1 of 1 is what succeeds.
        assert infos["is_success"][1]
        assert infos["_prediction"].tolist() == [True, False, True]
        assert infos["reward_parts"]["_accuracy"].tolist() == [True, False, True]
    one, many = ends
    assert one["is_success"].tolist() == many["is_success"].tolist()
    assert one["prediction"].tolist() == many["prediction"].tolist()


def test_the_success_rate_of_stable_baselines_is_the_accuracy(pairs, model, tmp_path):
    envs = ShiftReduceVecEnv(
        ShiftReduceVectorEnv(4, pairs, reward="accuracy", model=model, autoreset_mode="SameStep")
    )
    agent = PPO("MultiInputPolicy", envs, n_steps=64, batch_size=64, n_epochs=1, seed=0, device="cpu")
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(256)
    agent.logger.close()
    assert len(agent.ep_success_buffer) == len(agent.ep_info_buffer) > 10
    assert list(agent.ep_success_buffer) == [bool(info["r"]) for info in agent.ep_info_buffer]
    names, values = (tmp_path / "progress.csv").read_text().splitlines()[:2]
    logged = dict(zip(names.split(","), values.split(","), strict=True))
    assert float(logged["rollout/success_rate"]) == pytest.approx(float(logged["rollout/ep_rew_mean"]))
