"""The adapter shows Stable-Baselines3 what DummyVecEnv does, and its algorithms train on it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from rlparse_envs import ShiftReduceEnv, ShiftReduceVectorEnv
from rlparse_envs.contract import arrays_in, memory_of, require_equal
from rlparse_envs.sb3 import ShiftReduceVecEnv


def adapted(num_envs, corpus=None, *, monitor=True, step_infos=False, **arguments):
    envs = ShiftReduceVectorEnv(num_envs, corpus, autoreset_mode="SameStep", **arguments)
    return ShiftReduceVecEnv(envs, monitor=monitor, step_infos=step_infos)


def monitored(corpus, **arguments):
    return Monitor(ShiftReduceEnv(corpus, **arguments))


@pytest.mark.parametrize("num_envs", [1, 4])
@pytest.mark.parametrize("arguments", [{}, {"observation": "features", "order": "sequential"}])
@pytest.mark.parametrize("step_infos", [True, False])
def test_equal_to_dummy_vec_env(num_envs, arguments, step_infos, pairs, singles, one_word):
    for corpus in (pairs, singles, one_word):
        dummy = DummyVecEnv([partial(monitored, corpus, **arguments)] * num_envs)
        batched = adapted(num_envs, corpus, step_infos=step_infos, **arguments)
        assert batched.observation_space == dummy.observation_space
        assert batched.action_space == dummy.action_space
        assert batched.seed(3) == dummy.seed(3)
        rng = np.random.default_rng(0)
        kept = []
        for step in range(80):
            if step % 50 == 0:
                found, expected = batched.reset(), dict_of(dummy.reset())
            else:
                actions = rng.integers(0, 2, num_envs)
                found = batched.step(actions)
                observation, rewards, dones, infos = dummy.step(actions)
                for info, other, done in zip(infos, found[3], dones, strict=True):
                    if done:
                        assert other["episode"].pop("t") >= 0
                        del info["episode"]["t"]
                if not step_infos:
                    quiet = {"TimeLimit.truncated": False}
                    infos = [info if done else quiet for info, done in zip(infos, dones, strict=True)]
                expected = (dict_of(observation), rewards, dones, infos)
            require_equal(found, expected, f"step {step}")
            require_equal(batched.reset_infos, dummy.reset_infos, f"reset_infos at step {step}")
            masks = [vec.env_method("action_masks", indices=range(num_envs)) for vec in (batched, dummy)]
            require_equal(*masks, f"masks at step {step}")
            kept.append(found)
        addresses = [memory_of(array) for _, array in arrays_in(kept, "kept")]
        assert len(addresses) == len(set(addresses))
        batched.close()
        assert batched.env.closed


def test_nothing_is_made_for_single_parsers_between_ends(pairs):
    envs = adapted(8, pairs)
    envs.reset()
    assert envs.infos["label"].shape == (8,)
    before = envs.step(np.zeros(8, np.int64))[3]
    ends = 0
    for _ in range(40):
        _, _, dones, infos = envs.step(np.zeros(8, np.int64))
        for info, earlier, done in zip(infos, before, dones, strict=True):
            assert ("parses" in info) == ("episode" in info) == done
            if not done and "episode" not in earlier:
                assert info is earlier
        assert envs.infos["action_mask"].shape == (8, 2)
        before, ends = infos, ends + dones.sum()
    assert ends > 8


def dict_of(observation):
    return dict(observation) if isinstance(observation, dict) else observation


def test_options_are_for_all_and_used_once(pairs):
    envs = adapted(2, pairs)
    envs.set_options({"example": 1})
    envs.reset()
    assert [info["example"] for info in envs.reset_infos] == [1, 1]
    envs.set_options([{"example": 1}, {"example": 2}])
    with pytest.raises(ValueError, match="reset options must be the same for all parsers of a batch"):
        envs.reset()
    envs.set_options()
    envs.reset()


def test_attributes(pairs):
    envs = adapted(3, pairs)
    assert envs.get_attr("max_tokens") == [envs.env.max_tokens] * 3
    assert envs.get_attr("render_mode", indices=1) == [None]
    assert envs.has_attr("action_masks")
    assert not envs.has_attr("no_such_thing")
    assert envs.env_is_wrapped(Monitor, indices=[0, 2]) == [True, True]
    assert envs.env_is_wrapped(VecMonitor) == [False] * 3
    assert adapted(1, pairs, monitor=False).env_is_wrapped(Monitor) == [False]
    envs.reset()
    assert [mask.tolist() for mask in envs.env_method("action_masks", indices=2)] == [[True, False]]
    with pytest.raises(
        AttributeError, match="no environments of their own and have no 'render', only 'action_masks'"
    ):
        envs.env_method("render")
    with pytest.raises(AttributeError, match="'max_tokens' cannot be set"):
        envs.set_attr("max_tokens", 3)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({}, "'NextStep' and 'numpy'"),
        ({"autoreset_mode": "SameStep", "output": "torch"}, "'SameStep' and 'torch'"),
    ],
)
def test_needs_the_mode_of_stable_baselines(arguments, found):
    with pytest.raises(ValueError, match=f"needs autoreset_mode='SameStep' and output='numpy', got {found}"):
        ShiftReduceVecEnv(ShiftReduceVectorEnv(2, **arguments))


def test_monitor_counts_episodes(singles, tmp_path):
    envs = VecMonitor(
        adapted(2, singles, monitor=False),
        str(tmp_path / "log"),
        info_keywords=("n_illegal_actions", "is_success"),
    )
    envs.seed(0)
    envs.reset()
    ended = []
    for _ in range(40):
        *_, dones, infos = envs.step(np.zeros(2, np.int64))
        ended += [info for info, done in zip(infos, dones, strict=True) if done]
    assert len(ended) > 8
    for info in ended:
        assert info["episode"]["l"] == 2 * info["lengths"][0] - 1
        assert info["episode"]["r"] == pytest.approx(info["reward_parts"]["gold_f1"])
        assert info["episode"]["n_illegal_actions"] == info["lengths"][0] - 1
        assert info["TimeLimit.truncated"] is False
    envs.close()


@pytest.mark.parametrize("algorithm", [PPO, A2C])
@pytest.mark.parametrize(
    ("observation", "policy"), [("features", "MlpPolicy"), ("symbolic", "MultiInputPolicy")]
)
def test_algorithms_run_and_evaluate(algorithm, observation, policy, singles, tmp_path):
    train = adapted(4, singles, observation=observation, episode_info=False)
    evaluation = adapted(1, singles, observation=observation, order="sequential")
    callback = EvalCallback(evaluation, n_eval_episodes=3, eval_freq=16, log_path=str(tmp_path), verbose=0)
    agent = algorithm(
        policy, train, n_steps=16, seed=0, device="cpu", **({"batch_size": 32} if algorithm is PPO else {})
    )
    agent.learn(128, callback=callback)
    logged = np.load(tmp_path / "evaluations.npz")
    assert np.isfinite(logged["results"]).all()
    assert set(np.unique(logged["ep_lengths"])) <= {1, 7}  # exactly 2n - 1
    assert len(agent.ep_info_buffer) > 5
    assert len(agent.ep_success_buffer) > 5


def test_normalised_features_train(singles):
    """A wrapper that needs the terminal observation."""
    envs = VecNormalize(adapted(4, singles, observation="features", episode_info=False), gamma=1.0)
    PPO("MlpPolicy", envs, n_steps=16, batch_size=32, seed=0, device="cpu").learn(128)
