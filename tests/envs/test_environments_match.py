"""Gymnasium's own comparison finds the batched environment and the single one to be the same game."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.env_match import check_environments_match
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import rlparse_envs
from rlparse_envs import BranchingF1Reward, ShiftReduceEnv, ShiftReduceVectorEnv

ID = f"rlparse_envs:{rlparse_envs.SHIFT_REDUCE_ID}"


class OneOfMany(gymnasium.Env):
    """One parser of a batch, the others playing along, as a single environment."""

    def __init__(self, *arguments, place=0, num_envs=1, **options):
        self.envs = ShiftReduceVectorEnv(num_envs, *arguments, autoreset_mode="Disabled", **options)
        self.place = place
        self.observation_space = self.envs.single_observation_space
        self.action_space = self.envs.single_action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        seeds = [None if seed is None else seed + (row != self.place) for row in range(self.envs.num_envs)]
        seen, infos = self.envs.reset(seed=seeds, options=options)
        self.over = np.zeros(self.envs.num_envs, np.bool_)
        return self.row(seen), self.info(infos)

    def step(self, action):
        others = self.over.copy()
        if others.any():  # the others go on with a new example
            self.envs.reset(options={"reset_mask": others})
        actions = np.zeros(self.envs.num_envs, np.int64)
        actions[self.place] = action
        seen, rewards, ended, cut, infos = self.envs.step(actions)
        self.over = ended & (np.arange(len(ended)) != self.place)
        here = self.place
        return self.row(seen), float(rewards[here]), bool(ended[here]), bool(cut[here]), self.info(infos)

    def row(self, seen):
        if isinstance(seen, dict):
            return {key: values[self.place] for key, values in seen.items()}
        return seen[self.place]

    def info(self, infos):
        told = {}
        for key, values in infos.items():
            if key.startswith("_") or not infos[f"_{key}"][self.place]:
                continue
            value = self.info(values) if isinstance(values, dict) else values[self.place]
            told[key] = value.item() if isinstance(value, np.generic) else value
        return told


REWARDS = {"gold_f1": "gold_f1", "right": BranchingF1Reward("right"), "likelihood": "log_likelihood"}


@pytest.mark.parametrize("observation", ["symbolic", "features"])
@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize(("place", "num_envs"), [(0, 1), (1, 3)])
def test_batched_and_single_environment_match(observation, reward, place, num_envs, pairs, model):
    model.eval()
    options = {"reward": REWARDS[reward], "observation": observation}
    if reward == "likelihood":
        options["model"] = model
    single = ShiftReduceEnv(pairs, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one_of_many = OneOfMany(pairs, place=place, num_envs=num_envs, **options)
        check_environments_match(single, one_of_many, num_steps=150, seed=3, info_comparison="equivalence")
        check_environments_match(one_of_many, single, num_steps=150, seed=4, info_comparison="equivalence")


def test_made_and_built_environments_match(singles):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_environments_match(gymnasium.make(ID, corpus=singles), ShiftReduceEnv(singles), num_steps=60)


def test_another_game_does_not_match(pairs):
    """The comparison above can fail."""
    right = ShiftReduceEnv(pairs, reward=BranchingF1Reward("right"))
    other = OneOfMany(pairs, reward=BranchingF1Reward("left"))
    with pytest.raises(AssertionError, match="stepping reward is not equivalent"):
        check_environments_match(right, other, num_steps=150, seed=3, info_comparison="skip")


@pytest.mark.parametrize("observation", ["symbolic", "features"])
def test_both_checkers_pass_without_warnings(observation, pairs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(ID, corpus=pairs, observation=observation, render_mode="ansi").unwrapped)
        for env in (
            ShiftReduceEnv(pairs, observation=observation),
            OneOfMany(pairs, observation=observation),
        ):
            check_env(env, skip_render_check=True)
            sb3_check_env(env, skip_render_check=True)
