"""What every vector environment of the parsing game promises: what as many single ones do, step for step."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from torch import Tensor

from rlparse_envs.contract import AnyEnv, arrays_in, memory_of, require, require_equal, require_raises

AnyVectorEnv = VectorEnv[Any, Any, Any]


class VectorEnvironmentContract:
    """Tests that every vector environment of the parsing game has to pass.

    Subclass it in a test file and say how to make the vector environment, and the single one that it is the same
    as; pytest then runs every ``test_`` method:

        class TestMyVectorEnv(VectorEnvironmentContract):
            def make_env(self):
                return ShiftReduceEnv()

            def make_vector_env(self, num_envs, autoreset_mode):
                return MyVectorEnv(num_envs, autoreset_mode=autoreset_mode)

    Numbers may come as tensors on the CPU. A failure is an AssertionError that tells mode, step, entry, what was
    expected and what came.
    """

    sizes: tuple[int, ...] = (1, 5)
    """Numbers of sub-environments that are tried."""

    n_steps: int = 60
    """Steps that are compared, with each way of choosing actions."""

    tolerance: float = 0.0
    """Floats may differ by so much: a model's matrix products round differently for more rows."""

    def make_env(self) -> AnyEnv:
        """Make a single environment."""
        raise NotImplementedError("a contract needs make_env(), which returns one single environment")

    def make_vector_env(self, num_envs: int, autoreset_mode: AutoresetMode) -> AnyVectorEnv:
        """Make a vector environment of as many of them."""
        raise NotImplementedError(
            "a contract needs make_vector_env(num_envs, autoreset_mode), which returns what to test"
        )

    def test_spaces_are_those_of_single_environments(self) -> None:
        """Spaces, number and metadata are those of a SyncVectorEnv."""
        for mode in AutoresetMode:
            for size in self.sizes:
                found, expected = self.make_vector_env(size, mode), self._single_ones(size, mode)
                for name in (
                    "num_envs",
                    "single_observation_space",
                    "single_action_space",
                    "observation_space",
                    "action_space",
                ):
                    mine, other = getattr(found, name), getattr(expected, name)
                    require(mine == other, f"{name} must be {other}, got {mine}")
                told = found.metadata.get("autoreset_mode")
                require(told is mode, f"metadata['autoreset_mode'] must be {mode}, got {told!r}")

    def test_next_step_autoreset_is_that_of_single_environments(self) -> None:
        """The step after an end starts the next example and ignores its action."""
        self._compare(AutoresetMode.NEXT_STEP)

    def test_same_step_autoreset_is_that_of_single_environments(self) -> None:
        """The end starts the next example at once; what it showed is in final_obs and final_info."""
        self._compare(AutoresetMode.SAME_STEP)

    def test_resets_by_mask_are_those_of_single_environments(self) -> None:
        """Without autoreset, reset_mask starts the chosen ones only, with seeds of their own where given."""
        self._compare(AutoresetMode.DISABLED)

    def test_asked_for_examples_are_those_of_single_environments(self) -> None:
        """The options of a reset reach every sub-environment."""
        for mode in AutoresetMode:
            found, expected = (make(3, mode) for make in (self.make_vector_env, self._single_ones))
            example = int(expected.reset(seed=5)[1]["example"][1])
            seeds: Any = [1, None, 3]
            answers = [env.reset(seed=seeds, options={"example": example}) for env in (found, expected)]
            self._require_same(answers[0], answers[1], f"{mode}, reset to example {example}")

    def test_returned_arrays_are_left_alone(self) -> None:
        """What was returned once is neither changed nor returned again."""
        for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
            env = self.make_vector_env(max(self.sizes), mode)
            rng = np.random.default_rng(0)
            answers = [_as_numpy(env.reset(seed=0))]
            snapshots = [copy.deepcopy(answers[0])]
            for _ in range(self.n_steps):
                answers.append(_as_numpy(env.step(rng.integers(0, 2, env.num_envs))))
                snapshots.append(copy.deepcopy(answers[-1]))
            owners: dict[int, str] = {}
            for step, answer in enumerate(answers):
                for name, array in arrays_in(answer, "returned"):
                    where = f"{mode}, step {step}: {name}"
                    owner = owners.setdefault(memory_of(array), where)
                    require(owner == where, f"{where} shares its memory with {owner}; return new arrays")
            for step, (answer, snapshot) in enumerate(zip(answers, snapshots, strict=True)):
                require_equal(answer, snapshot, f"{mode}, step {step}, changed after it was returned")

    def test_masks_are_those_of_the_infos(self) -> None:
        """action_masks() says what infos['action_mask'] does."""
        env: Any = self.make_vector_env(max(self.sizes), AutoresetMode.NEXT_STEP)
        rng = np.random.default_rng(0)
        infos = env.reset(seed=0)[1]
        for step in range(self.n_steps):
            found, told = _as_numpy((env.action_masks(), infos["action_mask"]))
            require_equal(found, told.astype(np.bool_), f"action_masks() at step {step}")
            infos = env.step(rng.integers(0, 2, env.num_envs))[-1]

    def test_wrong_calls_are_errors(self) -> None:
        """Steps outside episodes raise ResetNeeded, bad actions and options ValueError."""
        size = max(self.sizes)
        env = self.make_vector_env(size, AutoresetMode.DISABLED)
        some = np.zeros(size, np.int64)
        require_raises(gymnasium.error.ResetNeeded, lambda: env.step(some), "step before the first reset")
        env.reset(seed=0)
        for wrong in (some[:-1], some[None], some.astype(np.float64), some + 2, some - 1, [[0]], some > 0):
            require_raises(ValueError, partial(env.step, wrong), f"step({wrong!r})")
        for options in (
            {"no such option": 1},
            {"reset_mask": np.ones(size + 1, np.bool_)},
            {"reset_mask": np.ones(size)},
            {"reset_mask": np.zeros(size, np.bool_)},
        ):
            require_raises(ValueError, partial(env.reset, options=options), f"reset(options={options!r})")
        while not _as_numpy(env.step(some)[2]).any():
            pass
        require_raises(
            gymnasium.error.ResetNeeded, lambda: env.step(some), "step after an end, without autoreset"
        )

    def _single_ones(self, num_envs: int, mode: AutoresetMode) -> AnyVectorEnv:
        return SyncVectorEnv([self.make_env] * num_envs, autoreset_mode=mode)

    def _compare(self, mode: AutoresetMode) -> None:
        """Play both with legal, illegal and random actions."""
        for size in self.sizes:
            for number, actions in enumerate(_ACTIONS):
                found, expected = (make(size, mode) for make in (self.make_vector_env, self._single_ones))
                rng = np.random.default_rng(number)
                answers: tuple[Any, Any] = found.reset(seed=number), expected.reset(seed=number)
                self._require_same(*answers, f"{mode}, {size} environments, {actions} actions, reset")
                for step in range(1, self.n_steps + 1):
                    where = f"{mode}, {size} environments, {actions} actions, step {step}"
                    chosen = _choose(rng, actions, answers[1][-1]["action_mask"])
                    answers = found.step(chosen), expected.step(chosen)
                    self._require_same(*answers, f"{where} {chosen.tolist()}")
                    if mode == AutoresetMode.DISABLED and answers[1][2].any():
                        mask = answers[1][2] | (rng.random(size) < 0.2)
                        seeds: Any = [
                            None if rng.random() < 0.5 else int(rng.integers(100)) for _ in range(size)
                        ]
                        options = {"reset_mask": mask}
                        answers = (
                            found.reset(seed=seeds, options=dict(options)),
                            expected.reset(seed=seeds, options=dict(options)),
                        )
                        self._require_same(*answers, f"{where}, then reset of {mask.tolist()}")
                    elif step % 25 == 0:
                        answers = found.reset(), expected.reset()
                        self._require_same(*answers, f"{where}, then reset of all")

    def _require_same(self, found: Any, expected: Any, where: str) -> None:
        require_equal(_as_numpy(found), expected, where, tolerance=self.tolerance)


_ACTIONS = ("random", "legal", "illegal")


def _choose(rng: np.random.Generator, how: str, masks: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
    """Choose actions; "illegal" ones where there are any."""
    chosen = rng.integers(0, 2, len(masks))
    one_legal = masks.sum(axis=1) == 1
    wanted = masks.argmax(axis=1) if how == "legal" else masks.argmin(axis=1)
    return chosen if how == "random" else np.where(one_legal, wanted, chosen)


def _as_numpy(data: Any) -> Any:
    """Turn tensors in nested data into arrays of the same memory."""
    if isinstance(data, Tensor):
        return data.numpy()
    if isinstance(data, dict):
        return {key: _as_numpy(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return type(data)(map(_as_numpy, data))
    if isinstance(data, np.ndarray) and data.dtype == np.object_:
        return np.fromiter(map(_as_numpy, data), np.object_, len(data))
    return data


def check_vector_environment(contract: VectorEnvironmentContract) -> None:
    """Run a whole contract without pytest.

    Raises:
        AssertionError: The vector environment breaks a promise; the message tells which, where and how.
    """
    for name in dir(contract):
        if name.startswith("test_"):
            getattr(contract, name)()
