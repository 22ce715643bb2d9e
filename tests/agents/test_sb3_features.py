"""The features are the vectors of the buffer's front and the two stack tops, as a slow parser composes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.utils import obs_as_tensor

from rlparse.corpora.logic import embedded_logic
from rlparse_agents.sb3_features import TrackerFeatures
from rlparse_envs import ShiftReduceEnv, ShiftReduceVectorEnv
from rlparse_envs.sb3 import ShiftReduceVecEnv

COMPOSITIONS = ["tree_rnn", "tree_lstm", "gated"]


def slow_features(extractor, observation):
    """Replay one parser's history with a list for a stack."""
    cell = extractor.machine.composition
    leaves = [
        cell.leaf(extractor.embedding(torch.tensor(int(token))))
        for token in observation["tokens"][: int(observation["length"][0])]
    ]
    stack, shifted = [], 0
    for transition in observation["transitions"].tolist():
        if transition == 0:
            stack.append(leaves[shifted])
            shifted += 1
        elif transition == 1:
            right, left = stack.pop(), stack.pop()
            stack.append(cell(left[None], right[None])[0])
    nothing = torch.zeros(cell.state_size)
    front = leaves[shifted] if shifted < len(leaves) else nothing
    second, top = [nothing, nothing, *stack][-2:]
    read = (front, top, second)
    return torch.cat([cell.hidden(state) for state in read])


def states_of(n_episodes):
    """Observations of random play, from starts to ends."""
    env = ShiftReduceEnv()
    rng = np.random.default_rng(0)
    seen = []
    for episode in range(n_episodes):
        observation, _ = env.reset(seed=episode)
        ended = False
        while not ended:
            seen.append(observation)
            observation, _, ended, _, _ = env.step(int(rng.integers(2)))
        seen.append(observation)
    return env.observation_space, seen


def together(seen):
    arrays = {key: np.stack([observation[key] for observation in seen]) for key in seen[0]}
    return {key: tensor.float() for key, tensor in obs_as_tensor(arrays, torch.device("cpu")).items()}


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_features_are_what_the_tracker_reads(composition):
    space, seen = states_of(12)
    torch.manual_seed(0)
    extractor = TrackerFeatures(space, 5, 7, composition)
    assert extractor.features_dim == 21
    found = extractor(together(seen))
    expected = torch.stack([slow_features(extractor, observation) for observation in seen])
    assert found.shape == (len(seen), 21)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    weights = torch.randn_like(found)
    gradients = []
    for features in (found, expected):
        extractor.zero_grad()
        (features * weights).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in extractor.named_parameters()})
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], gradient, atol=1e-4, rtol=1e-3, msg=name)


def test_ends_show_the_finished_tree():
    space, seen = states_of(1)
    extractor = TrackerFeatures(space, 4, 4)
    front, top, second = extractor(together(seen[-1:])).view(3, 4)
    assert not front.any()
    assert top.any()
    assert not second.any()


def test_rows_of_padding_are_zeros_and_change_nothing():
    """As recurrent policies fill up their sequences."""
    space, seen = states_of(2)
    extractor = TrackerFeatures(space, 4, 4)
    nothing = {key: np.zeros_like(values) for key, values in seen[0].items()}
    alone = extractor(together(seen))
    padded = extractor(together([nothing, *seen, nothing]))
    torch.testing.assert_close(padded[1:-1], alone)
    assert not padded[[0, -1]].any()
    assert not extractor(together([nothing])).any()


@pytest.mark.parametrize(
    ("space", "lacking"),
    [
        (spaces.Box(0, 1, (3,)), "tokens, length, transitions, stack_spans, stack_size, buffer_front: Box"),
        (spaces.Dict({"tokens": spaces.Box(0, 1, (3,))}), "length, transitions, stack_spans"),
    ],
)
def test_only_symbolic_observations_will_do(space, lacking):
    with pytest.raises(ValueError, match=rf"reads symbolic observations .* lacks {lacking}"):
        TrackerFeatures(space)


@pytest.mark.parametrize("algorithm", [PPO, A2C, DQN])
def test_policies_of_stable_baselines_learn_through_it(algorithm, tmp_path):
    corpus = embedded_logic(40, 1, 1, seed=0)[0]
    envs = ShiftReduceVecEnv(ShiftReduceVectorEnv(4, corpus, max_tokens=6, autoreset_mode="SameStep"))
    policy = {
        "features_extractor_class": TrackerFeatures,
        "features_extractor_kwargs": {"embedding_size": 4, "hidden_size": 4},
    }
    if algorithm is not DQN:
        policy["ortho_init"] = False
    sizes = {PPO: {"n_steps": 16, "batch_size": 32}, A2C: {}, DQN: {"learning_starts": 8, "buffer_size": 200}}
    agent = algorithm(
        "MultiInputPolicy", envs, policy_kwargs=policy, seed=0, device="cpu", **sizes[algorithm]
    )
    before = {name: weight.clone() for name, weight in agent.policy.named_parameters()}
    agent.learn(128)
    changed = {
        name for name, weight in agent.policy.named_parameters() if not torch.equal(weight, before[name])
    }
    for part in (
        "embedding.weight",
        "machine.composition.project.weight",
        "machine.composition.combine.weight",
    ):
        assert any(name.endswith(part) for name in changed), part
    agent.save(tmp_path / "agent.zip")
    loaded = algorithm.load(tmp_path / "agent.zip", device="cpu")
    observations = envs.reset()
    for deterministic in (True, True):
        actions = [a.predict(observations, deterministic=deterministic)[0].tolist() for a in (agent, loaded)]
        assert actions[0] == actions[1]
