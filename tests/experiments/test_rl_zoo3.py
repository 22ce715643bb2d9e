"""The hyper-parameters for rl-zoo3 say nothing that it, or the algorithm, would not understand."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import gymnasium
import pytest
import yaml
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import rlparse_envs
import rlparse_experiments

FOLDER = Path(rlparse_experiments.__file__).parent / "rl_zoo3"
ALGORITHMS = {"ppo": PPO, "a2c": A2C, "dqn": DQN, "ppo_lstm": RecurrentPPO}
"""As rl-zoo3 calls them."""

OF_THE_ZOO = {"n_envs", "n_timesteps"}
"""What rl-zoo3 takes out before it calls the constructor; all that these files use of it."""

IDS = {rlparse_envs.SHIFT_REDUCE_ID, rlparse_envs.SHIFT_REDUCE_FEATURES_ID}


def entries(name):
    return yaml.safe_load((FOLDER / f"{name}.yml").read_text(encoding="utf-8"))


def built(name, n_envs, **changed):
    """What rl-zoo3 would train."""
    ((env_id, settings),) = entries(name).items()
    settings = {key: value for key, value in settings.items() if key not in OF_THE_ZOO} | changed
    if "." in settings["policy"]:
        module, _, policy = settings["policy"].rpartition(".")
        settings["policy"] = getattr(importlib.import_module(module), policy)
    return ALGORITHMS[name](
        env=make_vec_env(gymnasium.spec(env_id).make, n_envs, seed=0), seed=0, device="cpu", **settings
    )


def test_every_file_is_of_an_algorithm():
    assert {path.stem for path in FOLDER.glob("*.yml")} == set(ALGORITHMS)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_environments_are_registered(name):
    (env_id,) = entries(name)
    assert env_id in IDS
    env = gymnasium.make(env_id)
    assert isinstance(env.observation_space, gymnasium.spaces.Box) == ("Features" in env_id)
    many = gymnasium.make_vec(env_id, num_envs=2)
    assert many.single_observation_space == env.observation_space


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_key_is_known_and_every_number_is_one(name):
    (settings,) = entries(name).values()
    accepted = set(inspect.signature(ALGORITHMS[name].__init__).parameters) - {"self", "env"}
    assert set(settings) - OF_THE_ZOO <= accepted
    assert set(settings) >= OF_THE_ZOO
    for key, value in settings.items():
        if key not in ("policy", "policy_kwargs"):
            assert isinstance(value, int | float), f"{key}: YAML reads {value!r} as a text"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_they_train(name):
    smaller = {"n_steps": 8} if name in ("ppo", "ppo_lstm") else {}
    if name in ("ppo", "ppo_lstm"):
        smaller["batch_size"] = 16
    if name == "dqn":
        smaller["learning_starts"] = 8
    agent = built(name, 2, **smaller).learn(64)
    mean, _ = evaluate_policy(agent, make_vec_env(gymnasium.spec(next(iter(entries(name)))).make, 1), 2)
    assert 0 < mean <= 1
