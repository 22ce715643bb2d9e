"""Stable-Baselines3 plays the game as it is: its checker, its vector environments, PPO and EvalCallback."""

from __future__ import annotations

import warnings
from functools import partial

import gymnasium
import numpy as np
import pytest
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

import rlparse_envs
from rlparse_envs import ShiftReduceEnv

ID = f"rlparse_envs:{rlparse_envs.SHIFT_REDUCE_ID}"
POLICIES = {"features": "MlpPolicy", "symbolic": "MultiInputPolicy"}


@pytest.mark.parametrize("observation", POLICIES)
@pytest.mark.parametrize("single", [False, True])
def test_checker_has_no_warning(observation, single, singles):
    arguments = {"corpus": singles} if single else {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for env in (
            ShiftReduceEnv(observation=observation, **arguments),
            gymnasium.make(ID, observation=observation, render_mode="ansi", **arguments),
        ):
            check_env(env, skip_render_check=False)


@pytest.mark.parametrize("observation", POLICIES)
def test_dummy_vec_env(observation):
    envs = DummyVecEnv([partial(ShiftReduceEnv, observation=observation)] * 3)
    envs.seed(0)
    envs.reset()
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(100):
        _, rewards, dones, infos = envs.step(rng.integers(0, 2, 3))
        for reward, done, info in zip(rewards, dones, infos, strict=True):
            assert done == ("parses" in info) == ("terminal_observation" in info)
            assert reward == 0 or done
            ended += done
    assert ended > 10
    assert np.array(envs.env_method("action_masks")).shape == (3, 2)
    envs.close()


@pytest.mark.parametrize(("observation", "policy"), POLICIES.items())
def test_ppo_runs_and_evaluates(observation, policy, tmp_path, singles):
    """A short run with the callback that evaluates on the way; success rates come from is_success."""
    make = partial(ShiftReduceEnv, singles, observation=observation)
    evaluation = Monitor(make(order="sequential"))
    callback = EvalCallback(evaluation, n_eval_episodes=3, eval_freq=64, log_path=str(tmp_path), verbose=0)
    agent = PPO(policy, make_vec_env(make, 2), n_steps=32, batch_size=32, n_epochs=1, seed=0, device="cpu")
    agent.learn(192, callback=callback)
    assert np.isfinite(callback.last_mean_reward)
    logged = np.load(tmp_path / "evaluations.npz")
    assert logged["results"].shape == logged["successes"].shape == (1, 3)
    assert logged["ep_lengths"][0].tolist() == [7, 1, 7]  # exactly 2n - 1, in the order of the corpus
    assert ((logged["successes"] == 1) == (logged["results"] == 1)).all()


def test_maskable_ppo_finds_the_masks(singles):
    make = partial(ShiftReduceEnv, singles, observation="features")
    envs = make_vec_env(make, 2, monitor_kwargs={"info_keywords": ("n_illegal_actions",)})
    assert is_masking_supported(envs)
    envs.reset()
    assert get_action_masks(envs).tolist() == [[True, False]] * 2
    agent = MaskablePPO("MlpPolicy", envs, n_steps=32, batch_size=32, n_epochs=1, seed=0, device="cpu")
    agent.learn(64)
    illegal = [episode["n_illegal_actions"] for episode in agent.ep_info_buffer]
    assert len(illegal) > 5
    assert not any(illegal)
