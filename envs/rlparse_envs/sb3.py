"""The batched game for Stable-Baselines3, which has vector environments of its own kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from rlparse_envs.batched import ShiftReduceVectorEnv


class ShiftReduceVecEnv(VecEnv):
    """Show a `ShiftReduceVectorEnv` to Stable-Baselines3 as its ``DummyVecEnv`` shows as many `ShiftReduceEnv`.

        envs = ShiftReduceVectorEnv(512, observation="features", autoreset_mode="SameStep")
        agent = PPO("MlpPolicy", VecMonitor(ShiftReduceVecEnv(envs)))

    Observations, rewards, ends and infos are equal to those, step for step under the same seeds. Put
    ``VecMonitor`` around it for the returns and lengths of episodes. The masks for sb3-contrib's MaskablePPO are
    in ``env_method("action_masks")``. With ``episode_info=False`` the infos lack the texts.

    Args:
        env: With ``autoreset_mode="SameStep"`` and numpy output, as Stable-Baselines3 has it.

    Raises:
        ValueError: Another autoreset mode or output.
    """

    def __init__(self, env: ShiftReduceVectorEnv) -> None:
        if env.autoreset_mode != AutoresetMode.SAME_STEP or env.output != "numpy":
            raise ValueError(
                "Stable-Baselines3 needs autoreset_mode='SameStep' and output='numpy', got "
                f"{env.autoreset_mode.value!r} and {env.output!r}"
            )
        self.env = env
        self._actions: npt.NDArray[Any] | None = None
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
        observations, infos = self.env.reset(seed=self._seeds, options=options)
        self.reset_infos = [_row(infos, row) for row in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Take note of the actions, [num_envs]."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Take one transition in every parser; see ``VecEnv``."""
        observations, rewards, dones, _, infos = self.env.step(self._actions)
        nothing = np.zeros(self.num_envs, np.int64)  # "transition" is missing where all have ended
        columns = zip(
            infos["action_mask"],
            infos["illegal_action"].tolist(),
            infos["n_illegal_actions"].tolist(),
            infos.get("transition", nothing).tolist(),
            strict=True,
        )
        told: list[dict[str, Any]] = [
            {
                "action_mask": mask,
                "illegal_action": illegal,
                "n_illegal_actions": n_illegal,
                "transition": transition,
                "TimeLimit.truncated": False,
            }
            for mask, illegal, n_illegal, transition in columns
        ]
        for row in np.flatnonzero(dones).tolist():
            told[row] = _row(infos["final_info"], row) | {
                "TimeLimit.truncated": False,
                "terminal_observation": infos["final_obs"][row],
            }
            self.reset_infos[row] = _row(infos, row, without=("final_obs", "final_info"))
        return observations, rewards.astype(np.float32), dones, told

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
        """Say that single parsers are never wrapped."""
        return [False for _ in self._get_indices(indices)]


def _row(infos: dict[str, Any], row: int, *, without: Sequence[str] = ()) -> dict[str, Any]:
    """Take one row's info out of those of all, as a single environment gives it."""
    told: dict[str, Any] = {}
    for key, values in infos.items():
        if key.startswith("_") or key in without or not infos[f"_{key}"][row]:
            continue
        if isinstance(values, dict):
            told[key] = _row(values, row)
        else:
            value = values[row]
            told[key] = value.item() if isinstance(value, np.generic) else value
    return told
