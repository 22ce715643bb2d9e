"""A zip file executes code when it is loaded, so nothing loads one that nobody vouches for."""

from __future__ import annotations

import base64
import json
import os
import zipfile

import cloudpickle
import pytest
import torch
from stable_baselines3 import A2C, DQN, PPO

from rlparse_agents.policy_gradient import PolicyGradient
from rlparse_agents.sb3_masked_recurrent import MaskableRecurrentPPO
from rlparse_agents.sb3_zip import export_zip, load_weights, load_zip
from rlparse_envs import ShiftReduceEnv

REFUSAL = (
    r"agent.zip is a file of Stable-Baselines3, which holds pickled Python objects: loading it executes .* "
    r"pass trusted=True. .* call load_weights\(agent, path\)"
)


def agent_of(pairs, algorithm=PPO, *, seed=0, width=8):
    if algorithm is PolicyGradient:
        sizes = {"n_tokens": len(pairs.vocabulary), "hidden_size": width, "embedding_size": 4}
        return PolicyGradient(
            "TrackerPolicy", ShiftReduceEnv(pairs), policy_kwargs=sizes, seed=seed, device="cpu"
        )
    env = ShiftReduceEnv(pairs, observation="symbolic" if algorithm is MaskableRecurrentPPO else "features")
    policy = "MaskedMultiInputLstmPolicy" if algorithm is MaskableRecurrentPPO else "MlpPolicy"
    options = {"buffer_size": 10} if algorithm is DQN else {"n_steps": 8}
    if algorithm in (PPO, MaskableRecurrentPPO):
        options["batch_size"] = 8
    return algorithm(
        policy, env, policy_kwargs={"net_arch": [width]}, seed=seed, device="cpu", **options
    ).learn(16)


def same(agent, other):
    weights, others = agent.policy.state_dict(), other.policy.state_dict()
    assert weights.keys() == others.keys()
    return all(torch.equal(weights[name], others[name]) for name in weights)


ALGORITHMS = [PPO, A2C, DQN, MaskableRecurrentPPO, PolicyGradient]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_agents_come_back_when_they_are_trusted(algorithm, pairs, tmp_path):
    agent = agent_of(pairs, algorithm)
    path = export_zip(agent, tmp_path / "new" / "agent")
    assert path == tmp_path / "new" / "agent.zip"
    assert [file.name for file in path.parent.iterdir()] == ["agent.zip"]
    with pytest.raises(ValueError, match=REFUSAL):
        load_zip(algorithm, path)
    if algorithm is PolicyGradient:
        with pytest.raises(ValueError, match=REFUSAL):
            PolicyGradient.load(path)
    loaded = load_zip(
        algorithm,
        path,
        trusted=True,
        env=ShiftReduceEnv(pairs) if algorithm is PolicyGradient else None,
        device="cpu",
    )
    assert type(loaded) is algorithm
    assert loaded.num_timesteps == agent.num_timesteps
    assert same(loaded, agent)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_weights_come_back_without_trust(algorithm, pairs, tmp_path):
    agent = agent_of(pairs, algorithm)
    if algorithm is PolicyGradient:
        with torch.no_grad():
            agent.policy.head.weight.add_(1.0)
    other = agent_of(pairs, algorithm, seed=1)
    assert not same(other, agent)
    load_weights(other, export_zip(agent, tmp_path / "agent.zip"))
    assert same(other, agent)


class MakesFolder:
    """What an attacker would put into a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_only_trusted_files_execute_code(pairs, tmp_path):
    good = export_zip(agent_of(pairs), tmp_path / "good.zip")
    bad, sign = tmp_path / "agent.zip", tmp_path / "executed"
    with zipfile.ZipFile(good) as archive, zipfile.ZipFile(bad, "w") as changed:
        for name in archive.namelist():
            content = archive.read(name)
            if name == "data":
                data = json.loads(content)
                pickled = base64.b64encode(cloudpickle.dumps(MakesFolder(sign))).decode()
                data["verbose"] = {":type:": "int", ":serialized:": pickled}
                content = json.dumps(data).encode()
            changed.writestr(name, content)
    with pytest.raises(ValueError, match=REFUSAL):
        load_zip(PPO, bad)
    load_weights(agent_of(pairs, seed=1), bad)
    assert not sign.exists()
    load_zip(PPO, bad, trusted=True, device="cpu")
    assert sign.exists()  # which is why


def test_other_weights_are_refused(pairs, tmp_path):
    path = export_zip(agent_of(pairs), tmp_path / "agent.zip")
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_weights(agent_of(pairs, width=9), path)
    (tmp_path / "text.zip").write_text("not a zip file")
    with pytest.raises(ValueError, match="wasn't a zip-file"):
        load_weights(agent_of(pairs), tmp_path / "text.zip")


def test_a_draft_is_not_left_behind_as_an_agent(pairs, tmp_path, monkeypatch):
    agent = agent_of(pairs)
    path = export_zip(agent, tmp_path / "agent.zip")
    before = path.read_bytes()

    def fails(draft):
        draft.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(agent, "save", fails)
    with pytest.raises(OSError, match="no space left"):
        export_zip(agent, path)
    assert path.read_bytes() == before
