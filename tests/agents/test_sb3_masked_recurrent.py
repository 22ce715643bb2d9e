"""Masked and recurrent PPO: no illegal action ever, masks in the buffer, files and evaluation as ever."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.envs import InvalidActionEnvDiscrete
from sb3_contrib.common.maskable.utils import get_action_masks
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rlparse_agents.sb3_features import TrackerFeatures
from rlparse_agents.sb3_masked_recurrent import (
    MaskableRecurrentPPO,
    MaskedMultiInputLstmPolicy,
    TrackerLstmPolicy,
    VecActionMask,
)
from rlparse_envs import ShiftReduceEnv, ShiftReduceVectorEnv
from rlparse_envs.sb3 import ShiftReduceVecEnv

TRACKER = {
    "features_extractor_class": TrackerFeatures,
    "features_extractor_kwargs": {"embedding_size": 4, "hidden_size": 4},
    "ortho_init": False,
}
LSTMS = {
    "two": {},
    "shared": {"shared_lstm": True, "enable_critic_lstm": False},
    "actor": {"enable_critic_lstm": False},
    "two layers, tracker": {"n_lstm_layers": 2, **TRACKER},
    "own extractors": {"share_features_extractor": False, **TRACKER},
}


def parsers(num_envs=4, **arguments):
    return ShiftReduceVecEnv(
        ShiftReduceVectorEnv(num_envs, max_tokens=6, autoreset_mode="SameStep", **arguments)
    )


def agent_of(env, *, algorithm=MaskableRecurrentPPO, policy=MaskedMultiInputLstmPolicy, **policy_kwargs):
    return algorithm(
        policy,
        env,
        n_steps=24,
        batch_size=48,
        n_epochs=2,
        policy_kwargs={"lstm_hidden_size": 8, **policy_kwargs},
        seed=0,
        device="cpu",
    )


class CountIllegal(BaseCallback):
    """Counts actions that the environment replaced, and what the buffer says of them."""

    def __init__(self):
        super().__init__()
        self.ends, self.illegal = 0, 0

    def _on_step(self):
        ended = [info for info in self.locals["infos"] if "episode" in info]
        self.ends += len(ended)
        self.illegal += sum(info["n_illegal_actions"] for info in ended)
        return True

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        masks, actions = buffer.observations["action_mask"], buffer.actions.astype(np.int64)
        assert masks.shape == (24, 4, 2)
        assert np.take_along_axis(masks, actions, axis=2).all()
        assert (masks.sum(2) == 1).any()


@pytest.mark.parametrize("lstm", LSTMS)
@pytest.mark.parametrize("algorithm", [MaskableRecurrentPPO, RecurrentPPO])
def test_no_illegal_action_ever(lstm, algorithm):
    agent = agent_of(parsers(), algorithm=algorithm, **LSTMS[lstm])
    count = CountIllegal()
    agent.learn(24 * 4 * 3, callback=count)
    assert count.ends > 10
    assert count.illegal == 0


def test_an_unmasked_policy_errs():
    """The count above can fail."""
    agent = agent_of(parsers(), algorithm=RecurrentPPO, policy="MultiInputLstmPolicy")
    illegal = []
    agent.learn(96, callback=lambda seen, _: illegal.extend(seen["env"].infos["illegal_action"]) or True)
    assert any(illegal)


@pytest.mark.parametrize("lstm", LSTMS)
def test_minibatches_are_judged_as_they_were_sampled(lstm):
    """Masks, recurrent states and padding fit together: before an update every ratio is 1."""
    agent = agent_of(parsers(), **LSTMS[lstm])
    agent.train = lambda: None
    agent.learn(96)
    judged = 0
    for batch in agent.rollout_buffer.get(37):
        values, log_probs, entropies = agent.policy.evaluate_actions(
            batch.observations, batch.actions.long().flatten(), batch.lstm_states, batch.episode_starts
        )
        real = batch.mask > 0.5
        torch.testing.assert_close(log_probs[real], batch.old_log_prob[real], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(values.flatten()[real], batch.old_values[real], atol=1e-5, rtol=1e-4)
        forced = batch.observations["action_mask"].sum(1) == 1
        assert not log_probs[real & forced].any()
        assert not entropies[real & forced].any()
        assert (entropies[real & ~forced] > 0.3).all()
        assert torch.isfinite(log_probs).all()
        judged += int(real.sum())
    assert judged == 96


def test_probabilities_are_those_of_the_legal_actions_alone():
    agent = agent_of(parsers(), algorithm=RecurrentPPO, **TRACKER)
    plain = agent_of(parsers(), algorithm=RecurrentPPO, policy="MultiInputLstmPolicy", **TRACKER)
    plain.policy.load_state_dict(agent.policy.state_dict())
    with torch.no_grad():
        for policy in (agent.policy, plain.policy):
            policy.action_net.weight.mul_(50)
    env = parsers()
    env.seed(0)
    observations = env.reset()
    state = (torch.zeros(1, 4, 8), torch.zeros(1, 4, 8))
    for _ in range(12):
        seen = obs_as_tensor(observations, torch.device("cpu"))
        masked, _ = agent.policy.get_distribution(seen, state, torch.zeros(4))
        free, state = plain.policy.get_distribution(seen, state, torch.zeros(4))
        legal = torch.as_tensor(np.stack(env.env_method("action_masks")))
        expected = free.distribution.probs * legal
        expected = expected / expected.sum(1, keepdim=True)
        torch.testing.assert_close(masked.distribution.probs, expected)
        assert not masked.distribution.probs[~legal].any()
        observations = env.step(masked.sample().numpy())[0]


def test_files_and_evaluation_are_intact(tmp_path):
    agent = agent_of(parsers(), policy="MaskedMultiInputLstmPolicy", **TRACKER)
    evaluation = parsers(2, order="sequential")
    callback = EvalCallback(
        evaluation,
        n_eval_episodes=6,
        eval_freq=24,
        log_path=str(tmp_path),
        best_model_save_path=str(tmp_path),
        verbose=0,
    )
    agent.learn(192, callback=callback)
    logged = np.load(tmp_path / "evaluations.npz")
    assert logged["results"].shape == (2, 6)
    assert (logged["results"] > 0).all()
    assert not evaluation.infos["n_illegal_actions"].any()
    agent.save(tmp_path / "agent.zip")
    for path in ("agent.zip", "best_model.zip"):
        loaded = MaskableRecurrentPPO.load(tmp_path / path, env=parsers(), device="cpu")
        assert isinstance(loaded.policy, MaskedMultiInputLstmPolicy)
        loaded.learn(96)
    loaded = MaskableRecurrentPPO.load(tmp_path / "agent.zip", device="cpu")
    evaluation.seed(5)
    observations, states = evaluation.reset(), [None, None]
    starts = np.ones(2, np.bool_)
    for _ in range(40):
        actions = []
        for place, one in enumerate((agent, loaded)):
            action, states[place] = one.predict(observations, states[place], starts, deterministic=True)
            actions.append(action)
        assert actions[0].tolist() == actions[1].tolist()
        observations, _, starts, infos = evaluation.step(actions[0])
        assert not any(info.get("n_illegal_actions", 0) for info in infos)


def test_the_tracker_is_a_masked_lstm_over_its_features(tmp_path):
    small = {"features_extractor_kwargs": TRACKER["features_extractor_kwargs"]}
    agent = agent_of(parsers(), policy="TrackerLstmPolicy", **small).learn(96)
    twin = agent_of(parsers(), policy="MaskedMultiInputLstmPolicy", **TRACKER).learn(96)
    weights, others = agent.policy.state_dict(), twin.policy.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    agent.save(tmp_path / "agent.zip")
    assert type(MaskableRecurrentPPO.load(tmp_path / "agent.zip").policy) is TrackerLstmPolicy


@pytest.mark.parametrize("lstm", LSTMS)
def test_policies_are_saved_alone(lstm, tmp_path):
    policy = agent_of(parsers(), **LSTMS[lstm]).policy
    policy.save(str(tmp_path / "policy.pth"))
    loaded = MaskedMultiInputLstmPolicy.load(str(tmp_path / "policy.pth"), device="cpu")
    weights, others = policy.state_dict(), loaded.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_single_environments_will_do():
    agent = agent_of(Monitor(ShiftReduceEnv(max_tokens=4)))
    agent.learn(48, callback=EvalCallback(Monitor(ShiftReduceEnv(max_tokens=4)), eval_freq=24, verbose=0))
    env = ShiftReduceEnv(max_tokens=4)
    observation, _ = env.reset(seed=0)
    state, ended = None, False
    while not ended:
        action, state = agent.predict(observation, state)
        observation, _, ended, _, info = env.step(int(action))
    assert info["n_illegal_actions"] == 0
    agent.predict(observation, state)  # nothing is legal after the end, and nothing breaks


def test_masks_from_outside_forbid_more():
    env = parsers()
    agent = agent_of(env)
    observations = env.reset()
    observations, *_ = env.step(np.zeros(4, np.int64))
    observations, *_ = env.step(np.zeros(4, np.int64))
    free = observations["action_mask"].all(axis=1)
    assert free.any()
    for action in (0, 1):
        only = np.eye(2)[np.full(4, action)]
        for _ in range(5):
            chosen, _ = agent.predict(observations, action_masks=only)
            assert (chosen[free] == action).all()
    chosen, _ = agent.predict(observations, action_masks=get_action_masks(env), deterministic=True)
    assert chosen.tolist() == agent.predict(observations, deterministic=True)[0].tolist()


@pytest.mark.parametrize("observation", ["features", "symbolic without mask"])
def test_masks_that_are_methods_are_put_into_the_observation(observation):
    if observation == "features":
        envs = parsers(3, observation="features")
        expected = {"observation": envs.observation_space}
    else:
        envs = DummyVecEnv([lambda: WithoutMask(ShiftReduceEnv(max_tokens=6))] * 3)
        expected = dict(envs.observation_space.spaces)
    envs = VecActionMask(envs)
    expected["action_mask"] = spaces.Box(0, 1, (2,), np.int8)
    assert envs.observation_space == spaces.Dict(expected)
    agent = agent_of(envs)
    seen = agent.env.reset()
    assert seen["action_mask"].tolist() == [[1, 0]] * 3
    ends = 0
    for _ in range(40):
        actions = agent.predict(seen)[0]
        seen, _, dones, infos = envs.step(actions)
        assert (seen["action_mask"] == get_action_masks(envs)).all()
        for row in np.flatnonzero(dones):
            assert envs.observation_space.contains(infos[row]["terminal_observation"])
            assert not infos[row]["terminal_observation"]["action_mask"].any()
            assert infos[row]["n_illegal_actions"] == 0
            ends += 1
    assert ends > 3
    agent.learn(144)


class WithoutMask(gymnasium.ObservationWrapper):
    """Symbolic observations with the masks left to the method."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = spaces.Dict(
            {key: space for key, space in env.observation_space.spaces.items() if key != "action_mask"}
        )

    def observation(self, observation):
        return {key: value for key, value in observation.items() if key != "action_mask"}

    def action_masks(self):
        return self.env.action_masks()


def test_another_game_with_more_actions():
    """sb3-contrib's own example of invalid actions: 20 actions, 15 of them illegal at a time."""
    make = [lambda: InvalidActionEnvDiscrete(dim=20, n_invalid_actions=15)] * 4
    envs = VecActionMask(DummyVecEnv(make))
    agent = agent_of(envs)
    agent.learn(192)
    seen = envs.reset()
    for _ in range(20):
        actions, _ = agent.predict(seen)
        assert seen["action_mask"][np.arange(4), actions].all()
        seen, *_ = envs.step(actions)


def test_normalised_masks_are_refused_and_others_stay_as_they_are():
    envs = VecNormalize(parsers())
    with pytest.raises(
        ValueError, match=r"must hold 0 and 1, got .*; if VecNormalize changed it, .* norm_obs_keys"
    ):
        agent_of(envs).learn(96)
    count = CountIllegal()
    agent_of(VecNormalize(parsers(), norm_obs_keys=["length"])).learn(96, callback=count)
    assert count.illegal == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: agent_of(parsers(observation="features")),
            r"needs a Dict observation whose 'action_mask' is \[2\]",
        ),
        (
            lambda: agent_of(parsers(), policy=MultiInputLstm),
            "needs a MaskedMultiInputLstmPolicy, got MultiInputLstm, which does not mask; use RecurrentPPO",
        ),
        (lambda: VecActionMask(parsers()), "has an 'action_mask' already; VecActionMask is not needed"),
        (
            lambda: VecActionMask(DummyVecEnv([lambda: gymnasium.make("CartPole-v1")])),
            r"needs environments with a method action_masks\(\)",
        ),
        (
            lambda: VecActionMask(DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")])),
            r"masks are for Discrete actions, got Box",
        ),
        (
            lambda: MaskedMultiInputLstmPolicy(spaces.Dict({}), spaces.MultiBinary(3), lambda _: 1.0),
            r"masks are for Discrete actions, got MultiBinary",
        ),
    ],
)
def test_what_cannot_be_masked_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class MultiInputLstm(RecurrentPPO.policy_aliases["MultiInputLstmPolicy"]):
    """Not masked."""
