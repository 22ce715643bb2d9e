"""The batched game for Stable-Baselines3, which has vector environments of its own kind."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from rlparse_envs.batched import ShiftReduceVectorEnv


class ShiftReduceVecEnv(VecEnv):
    """Show a `ShiftReduceVectorEnv` to Stable-Baselines3 as its ``DummyVecEnv`` shows as many `ShiftReduceEnv`.

        envs = ShiftReduceVectorEnv(512, observation="features", autoreset_mode="SameStep")
        agent = PPO("MlpPolicy", ShiftReduceVecEnv(envs))

    Observations, rewards, ends, and the infos of episodes that end are equal to those of
    ``DummyVecEnv([lambda: Monitor(ShiftReduceEnv()), ...])``, step for step under the same seeds:
    ``terminal_observation``, ``is_success``, and ``episode`` with return, length and time. The masks for sb3-contrib's
    MaskablePPO are in ``env_method("action_masks")``.

    Between ends nothing is made for single parsers: their infos are dicts that stay the same from step to step and
    hold ``TimeLimit.truncated`` alone. What the other keys would be is in `infos` for all of them at once.

    Args:
        env: With ``autoreset_mode="SameStep"`` and numpy output, as Stable-Baselines3 has it. With
            ``episode_info=False`` the infos lack the texts.
        monitor: Tell ``episode`` at every end, and say that the parsers are wrapped with a ``Monitor``. False leaves
            that to a ``VecMonitor`` around this, which can write files.
        step_infos: Give single parsers all their infos between ends too, at about 1 µs a parser and step.

    Attributes:
        infos: What the batched environment told of the last ``reset`` or ``step``, as arrays over the parsers.

    Raises:
        ValueError: Another autoreset mode or output.
    """

    def __init__(self, env: ShiftReduceVectorEnv, *, monitor: bool = True, step_infos: bool = False) -> None:
        if env.autoreset_mode != AutoresetMode.SAME_STEP or env.output != "numpy":
            raise ValueError(
                "Stable-Baselines3 needs autoreset_mode='SameStep' and output='numpy', got "
                f"{env.autoreset_mode.value!r} and {env.output!r}"
            )
        self.env = env
        self.monitor, self.step_infos = monitor, step_infos
        self.infos: dict[str, Any] = {}
        self._actions: npt.NDArray[Any] | None = None
        self._lengths = np.zeros(env.num_envs, np.int64)  # steps of each episode so far
        self._begun = time.time()
        self._quiet: list[dict[str, Any]] = [{"TimeLimit.truncated": False} for _ in range(env.num_envs)]
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> VecEnvObs:
        """Start every parser, under the seeds and options that were set before.

        Raises:
            ValueError: Different options for different parsers.
        """
        options = self._options[0]
        if any(other != options for other in self._options):
            raise ValueError("reset options must be the same for all parsers of a batch")
        observations: VecEnvObs
        observations, self.infos = self.env.reset(seed=self._seeds, options=options)
        self.reset_infos = _of_rows(self.infos, np.arange(self.num_envs))
        self._lengths[:] = 0
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Take note of the actions, [num_envs]."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Take one transition in every parser; see ``VecEnv``."""
        observations, rewards, dones, _, self.infos = self.env.step(self._actions)
        self._lengths += 1
        told = self._of_every_row() if self.step_infos else self._quiet.copy()
        ended = np.flatnonzero(dones)
        if len(ended):
            places = ended.tolist()
            finals = _of_rows(self.infos["final_info"], ended)
            begins = _of_rows(self.infos, ended, without=("final_obs", "final_info"))
            seen = self.infos["final_obs"][ended]
            for row, final, begin, last in zip(places, finals, begins, seen, strict=True):
                final["TimeLimit.truncated"], final["terminal_observation"] = False, last
                told[row], self.reset_infos[row] = final, begin
            if self.monitor:
                now = round(time.time() - self._begun, 6)
                lengths, returns = self._lengths[ended].tolist(), rewards[ended].tolist()
                for final, length, earned in zip(finals, lengths, returns, strict=True):
                    final["episode"] = {"r": round(earned, 6), "l": length, "t": now}
            self._lengths[ended] = 0
        return observations, rewards.astype(np.float32), dones, told

    def _of_every_row(self) -> list[dict[str, Any]]:
        """Write every parser's info of this step."""
        infos = self.infos
        nothing = np.zeros(self.num_envs, np.int64)  # "transition" is missing where all have ended
        columns = zip(
            infos["action_mask"],
            infos["illegal_action"].tolist(),
            infos["n_illegal_actions"].tolist(),
            infos.get("transition", nothing).tolist(),
            strict=True,
        )
        return [
            {
                "action_mask": mask,
                "illegal_action": illegal,
                "n_illegal_actions": n_illegal,
                "transition": transition,
                "TimeLimit.truncated": False,
            }
            for mask, illegal, n_illegal, transition in columns
        ]

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Give the rows of ``action_masks``, the one method that every parser answers for itself.

        Raises:
            AttributeError: Any other method.
        """
        if method_name != "action_masks":
            raise AttributeError(
                f"the parsers of a batch are no environments of their own and have no {method_name!r}, only "
                "'action_masks'"
            )
        masks = self.env.action_masks()
        return [masks[row] for row in self._get_indices(indices)]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Give an attribute of the batched environment, which is the same for every parser."""
        value = getattr(self.env, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refuse: parsers of a batch have no attributes of their own.

        Raises:
            AttributeError: Always.
        """
        raise AttributeError(
            f"{attr_name!r} cannot be set: the parsers of a batch are no environments of their own; make a new "
            "ShiftReduceVectorEnv"
        )

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """Say that the parsers do what a ``Monitor`` does, if so, and are never wrapped otherwise."""
        wrapped = self.monitor and wrapper_class is Monitor
        return [wrapped for _ in self._get_indices(indices)]


def _of_rows(
    infos: dict[str, Any], rows: npt.NDArray[np.int64], *, without: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Take some rows' infos out of those of all, as single environments give them."""
    told: list[dict[str, Any]] = [{} for _ in range(len(rows))]
    for key, values in infos.items():
        if key.startswith("_") or key in without:
            continue
        if isinstance(values, dict):
            column = _of_rows(values, rows)
        else:
            chosen = values[rows]
            column = chosen.tolist() if chosen.ndim == 1 else list(chosen)
        for info, value, there in zip(told, column, infos[f"_{key}"][rows].tolist(), strict=True):
            if there:
                info[key] = value
    return told
