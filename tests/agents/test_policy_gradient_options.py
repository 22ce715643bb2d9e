"""Options of the native agent, through whole iterations: what it follows, remembers and refuses."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor

from rlparse.corpora.corpus import Corpus
from rlparse.errors import NonFiniteLossError
from rlparse_agents.estimator import Estimator
from rlparse_agents.exploration import EntropyTarget, Interpolated
from rlparse_agents.pacing import Pacing
from rlparse_agents.policy_gradient import PolicyGradient
from rlparse_agents.rollout import Rollout
from rlparse_envs import ShiftReduceEnv
from small_agents import agent_of, iterate, model_of, recording, same_weights, weights_of

# --------------------------------------------------------------------------------------------- several updates


def by_hand(agent: PolicyGradient, reference: PolicyGradient, n_updates: int) -> None:
    """Do one iteration of PPO with the parses of another agent's."""
    last = reference.last_iteration
    rollout = Rollout.of(last.batch.tokens, last.batch.lengths, last.transitions)
    rewards = last.rewards.view(-1, agent.n_parses)
    advantages = rewards - (rewards.sum(1, keepdim=True) - rewards) / (agent.n_parses - 1)
    advantages = advantages.flatten().repeat(2).unsqueeze(1)
    old = None
    for _ in range(n_updates):
        judged = agent.policy.judge(rollout).distribution
        free, log_probs = judged.free, judged.log_prob(last.transitions)
        old = log_probs.detach() if old is None else old
        ratio = (log_probs - old).exp()
        gain = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.3) * advantages)
        loss = -gain[free].mean() - 0.02 * judged.normalised_entropy()[free].mean()
        agent.policy_optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(agent.policy.parameters(), 0.5)
        agent.policy_optimizer.step()


@pytest.mark.parametrize("n_updates", [1, 2, 5])
def test_several_updates_from_the_same_parses_are_those_done_by_hand(pairs, n_updates):
    options: dict[str, Any] = {"learning_rate": 0.05, "entropy_coef": 0.02, "max_grad_norm": 0.5}
    estimator = Estimator(objective="ppo", n_updates=n_updates, clip_high=0.3)
    agent, other = (agent_of(pairs, "gold_f1", estimator=estimator, **options) for _ in range(2))
    writer = recording(agent)
    for _ in range(2):
        iterate(agent, 1)
        by_hand(other, agent, n_updates)
    for name, value in weights_of(agent.policy).items():
        torch.testing.assert_close(value, weights_of(other.policy)[name])
    values = writer.points[-1][1]
    if n_updates == 1:
        assert values["train/approx_kl"] == values["train/clip_fraction"] == 0.0
    else:
        assert values["train/approx_kl"] > 0.0
    if n_updates == 5:
        assert values["train/clip_fraction"] > 0.0


def test_the_entropy_of_a_point_is_of_the_policy_that_sampled(pairs):
    """However many updates follow."""
    told = []
    for n_updates in (1, 4):
        agent = agent_of(pairs, estimator=Estimator(objective="ppo", n_updates=n_updates), learning_rate=0.1)
        writer = recording(agent)
        iterate(agent, 1)
        told.append(writer.curve("rollout/entropy") + writer.curve("train/policy_loss"))
    assert told[0] == told[1]


def test_the_classifier_is_updated_once(pairs):
    finals = []
    for n_updates in (1, 3):
        estimator = Estimator(objective="ppo", n_updates=n_updates)
        agent = agent_of(pairs, "accuracy", model=model_of(pairs), estimator=estimator)
        iterate(agent, 1)
        finals.append(weights_of(agent.model))
    assert same_weights(*finals)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            "loss",
            "the policy's loss is nan at iteration 0; this was update 3 from the same parses, and those before",
        ),
        (
            "gradient",
            "the norm of the policy's gradient is nan at iteration 0; this was update 3 from the same parses",
        ),
    ],
)
def test_what_is_not_finite_in_a_later_update_stops_it_there(pairs, monkeypatch, spoil, message):
    def made(n_updates: int) -> PolicyGradient:
        return agent_of(pairs, estimator=Estimator(objective="ppo", n_updates=n_updates))

    whole, agent = made(2), made(4)
    iterate(whole, 1)
    loss_of, calls = agent._loss_of_policy, []

    def spoiled(*args: Any) -> Tensor:
        loss = loss_of(*args)
        calls.append(loss)
        if len(calls) == 3:
            if spoil == "loss":
                return loss * math.nan
            loss.register_hook(lambda gradient: gradient * math.nan)
        return loss

    monkeypatch.setattr(agent, "_loss_of_policy", spoiled)
    with pytest.raises(NonFiniteLossError, match=message):
        iterate(agent, 1)
    assert same_weights(weights_of(agent.policy), weights_of(whole.policy))  # those after two updates
    assert agent.n_iterations == 0
    iterate(agent, 1)  # and it can go on
    assert agent.n_iterations == 1


# ------------------------------------------------------------------------------------------------- a reference


def test_the_untrained_policy_stays_the_reference(pairs):
    agent = agent_of(pairs, estimator=Estimator(kl_coef=0.1), learning_rate=0.05)
    first = weights_of(agent.policy)
    writer = recording(agent)
    iterate(agent, 4)
    assert same_weights(weights_of(agent.reference), first)
    assert not same_weights(weights_of(agent.policy), first)
    divergence = writer.curve("train/kl_reference")
    assert divergence[0] == 0.0
    assert divergence[-1] > divergence[1] > 0.0


@pytest.mark.parametrize(
    ("pacing", "refreshed"), [({}, [3, 6]), ({"policy_every": 2}, [3, 6]), ({"warmup": 4}, [6])]
)
def test_the_policy_becomes_its_own_reference_every_so_often(pairs, pacing, refreshed):
    """Also at an iteration in which it rests."""
    agent = agent_of(
        pairs,
        "accuracy",
        model=model_of(pairs),
        estimator=Estimator(kl_coef=0.1, reference_every=3),
        pacing=Pacing(**pacing),
        learning_rate=0.05,
    )
    changed = []
    for t in range(8):
        before, reference = weights_of(agent.policy), weights_of(agent.reference)
        iterate(agent, 1)
        now = weights_of(agent.reference)
        if not same_weights(now, reference):
            changed.append(t)
            assert same_weights(now, before)
    assert changed == refreshed


def test_a_strong_divergence_holds_the_policy(pairs):
    moved = []
    for kl_coef in (0.01, 30.0):
        estimator = Estimator(objective="ppo", n_updates=8, kl_coef=kl_coef, clip_high=9.0)
        agent = agent_of(pairs, estimator=estimator, learning_rate=0.02, entropy_coef=0.0)
        writer = recording(agent)
        iterate(agent, 5)
        moved.append(writer.curve("train/kl_reference")[-1])
    assert moved[1] < 0.2 * moved[0]


def test_a_reference_reads_the_encoder_too(pairs):
    model = model_of(pairs)
    kwargs = {"n_tokens": len(pairs.vocabulary), "tracker_size": 4, "reads": "encoder", "encoder": model}
    agent = agent_of(pairs, "accuracy", model=model, policy_kwargs=kwargs, estimator=Estimator(kl_coef=0.1))
    writer = recording(agent)
    iterate(agent, 3)
    assert writer.curve("train/kl_reference")[0] == 0.0


# ---------------------------------------------------------------------------------------------------- exploration


def test_the_weight_of_the_entropy_can_be_scheduled(pairs):
    agent = agent_of(pairs, entropy_coef=Interpolated(0.4, 0.0, over=0.5))
    writer = recording(agent)
    agent.learn(10**9, total_iterations=8)
    assert writer.curve("train/entropy_coef") == pytest.approx([0.4, 0.3, 0.2, 0.1, 0, 0, 0, 0])


def test_the_weight_of_the_entropy_reaches_the_loss(pairs):
    """A schedule that is constant is a constant."""
    finals = []
    for weight in (0.3, lambda progress: 0.3, 0.0):
        agent = agent_of(pairs, entropy_coef=weight)
        iterate(agent, 2)
        finals.append(weights_of(agent.policy))
    assert same_weights(finals[0], finals[1])
    assert not same_weights(finals[0], finals[2])


def test_a_target_moves_the_weight_of_the_entropy_by_what_was_measured(pairs):
    agent = agent_of(pairs, entropy_coef=EntropyTarget(Interpolated(1.0, 0.0), start=0.1, rate=0.5))
    writer = recording(agent)
    agent.learn(10**9, total_iterations=6)
    weight = 0.1
    for t, (told, entropy) in enumerate(
        zip(writer.curve("train/entropy_coef"), writer.curve("rollout/entropy"), strict=True)
    ):
        assert told == pytest.approx(weight)
        weight *= math.exp(0.5 * (1 - t / 6 - entropy))
    assert agent.entropy_coef.weight == pytest.approx(weight)
    assert max(writer.curve("train/entropy_coef")) > 0.101


def test_the_temperature_reaches_the_policy_and_not_its_greedy_parses(pairs):
    agent = agent_of(pairs, temperature=Interpolated(3.0, 1.0), n_parses=64, learning_rate=0.0)
    with torch.no_grad():
        agent.policy.head.bias[:] = torch.tensor([0.0, 1.5])
    batch = pairs.batch(np.arange(4))
    greedy = agent.policy.derive(batch, greedy=True)
    writer = recording(agent)
    heats = []

    def heat(progress: float) -> float:
        heats.append(progress)
        return 3.0 - 2.0 * progress

    agent.temperature = heat
    agent.learn(10**9, total_iterations=4)
    assert writer.curve("train/temperature") == pytest.approx([3.0, 2.5, 2.0, 1.5])
    assert heats == pytest.approx([0.0, 0.25, 0.5, 0.75])
    assert agent.policy.temperature == 1.5
    entropies = writer.curve("rollout/entropy")
    assert entropies == sorted(entropies, reverse=True)
    assert entropies[0] > entropies[-1] + 0.01
    assert torch.equal(agent.policy.derive(batch, greedy=True), greedy)


def test_a_temperature_of_0_is_refused(pairs):
    agent = agent_of(pairs, temperature=Interpolated(1.0, 0.0, over=0.5))
    with pytest.raises(ValueError, match=r"temperature must be above 0, got 0\.0 at progress 0\.5"):
        agent.learn(10**9, total_iterations=4)


def test_a_constant_temperature_is_not_drawn(pairs):
    agent = agent_of(pairs, temperature=2.0, estimator=Estimator(kl_coef=0.1))
    writer = recording(agent)
    iterate(agent, 1)
    assert agent.policy.temperature == agent.reference.temperature == 2.0
    assert "train/temperature" not in writer.points[0][1]
    assert "train/entropy_coef" not in writer.points[0][1]


# -------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("grad_norm", ["l2", "max"])
@pytest.mark.parametrize("largest", [0.0, 1e-3])
def test_norms_of_gradients(pairs, largest, grad_norm):
    agent = agent_of(
        pairs, "accuracy", model=model_of(pairs), max_grad_norm=largest, grad_norm=grad_norm, entropy_coef=1.0
    )
    writer = recording(agent)
    iterate(agent, 1)
    for module, whose in ((agent.policy, "policy"), (agent.model, "encoder")):
        entries = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
        norm = float(entries.abs().max() if grad_norm == "max" else entries.norm())
        (told,) = writer.curve(f"train/grad_norm_{whose}")
        if largest and told > largest:
            assert norm == pytest.approx(largest, rel=1e-2)
        else:
            assert norm == pytest.approx(told, rel=1e-5)
    assert writer.curve("train/grad_norm_encoder")[0] > 1e-2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grad_norm": "l1"}, "unknown grad_norm 'l1'; known: l2, max"),
        ({"max_grad_norm": -1.0}, r"max_grad_norm must not be negative, got -1.0 \(0 does not clip\)"),
        ({"optimizer": "adamax"}, "unknown optimizer 'adamax'"),
    ],
)
def test_options_that_do_not_fit(pairs, options, message):
    with pytest.raises(ValueError, match=message):
        agent_of(pairs, **options)


# ------------------------------------------------------------------------------------------- what it remembers

REMEMBERS: list[dict[str, Any]] = [
    {"estimator": Estimator(baseline="moving_average", normaliser="running_sd")},
    {"estimator": Estimator(baseline="value", kl_coef=0.1, reference_every=2)},
    {"estimator": Estimator(baseline="step_value", objective="ppo", n_updates=2)},
    {"entropy_coef": EntropyTarget(0.9), "pacing": Pacing(policy_average=0.5)},
    {"pacing": Pacing(curriculum="length", curriculum_start=4)},
]


def continued(agent: PolicyGradient, other: PolicyGradient) -> None:
    """Put an agent where another one stands, as a run that goes on does."""
    other.policy.load_state_dict(agent.policy.state_dict())
    other.model.load_state_dict(agent.model.state_dict())
    for name in ("policy_optimizer", "encoder_optimizer"):
        getattr(other, name).load_state_dict(copy.deepcopy(getattr(agent, name).state_dict()))
    other.generator.set_state(agent.generator.get_state())
    state = io_round_trip(agent.learning_state())
    other.load_learning_state(state)
    other.order.load_state_dict(agent.order.state_dict())
    other.num_timesteps, other.n_iterations = agent.num_timesteps, agent.n_iterations


def io_round_trip(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    "options", REMEMBERS, ids=["averages", "value", "step_value", "target", "curriculum"]
)
def test_an_agent_goes_on_from_its_state(pairs, options):
    def made() -> PolicyGradient:
        return agent_of(pairs, "accuracy", model=model_of(pairs), batch_size=2, **copy.deepcopy(options))

    whole, other = made(), made()
    for _ in range(3):
        iterate_to(whole, whole.n_iterations + 1)
    continued(whole, other)
    torch.set_rng_state(before := torch.get_rng_state())
    iterate_to(whole, 7)
    torch.set_rng_state(before)
    iterate_to(other, 7)
    assert same_weights(weights_of(whole.policy), weights_of(other.policy))
    assert same_weights(weights_of(whole.model), weights_of(other.model))
    ours, theirs = whole.learning_state(), other.learning_state()
    assert ours.keys() == theirs.keys()
    assert repr(ours) == repr(theirs)
    with whole.evaluated_policy() as policy:
        averaged = weights_of(policy)
    with other.evaluated_policy() as policy:
        assert same_weights(averaged, weights_of(policy))


def iterate_to(agent: PolicyGradient, n: int) -> None:
    if not hasattr(agent, "_logger"):
        agent.set_logger(Logger(None, []))
    agent.learn(10**9, total_iterations=n, reset_num_timesteps=False)


def test_an_agent_without_options_remembers_only_its_losses(pairs):
    assert agent_of(pairs).learning_state().keys() == {"policy_loss"}


@pytest.mark.parametrize(
    "options", REMEMBERS, ids=["averages", "value", "step_value", "target", "curriculum"]
)
def test_a_zip_file_holds_what_it_remembers(pairs, tmp_path, options):
    agent = agent_of(pairs, "accuracy", model=model_of(pairs), batch_size=2, **copy.deepcopy(options))
    iterate(agent, 3)
    agent.save(tmp_path / "agent.zip")
    env = ShiftReduceEnv(pairs, reward="accuracy", model=model_of(pairs))
    loaded = PolicyGradient.load(tmp_path / "agent.zip", env=env, device="cpu", trusted=True)
    assert repr(loaded.learning_state()) == repr(agent.learning_state())
    with agent.evaluated_policy() as policy:
        averaged = weights_of(policy)
    with loaded.evaluated_policy() as policy:
        assert same_weights(averaged, weights_of(policy))
    iterate(loaded, 1)


SHARING: list[tuple[str, str, int]] = [
    ("SharedTrackerPolicy", "model", 4),
    ("GumbelPolicy", "model", 0),
    ("TrackerPolicy", "encoder", 0),
]


def sharing(pairs: Corpus, policy: str, name: str, size: int) -> PolicyGradient:
    model = model_of(pairs, tracker_size=size)
    kwargs: dict[str, Any] = {name: model}
    if policy == "TrackerPolicy":
        kwargs |= {"n_tokens": len(pairs.vocabulary), "reads": "encoder", "tracker_size": 4}
    return agent_of(pairs, "accuracy", model=model, policy=policy, policy_kwargs=kwargs)


@pytest.mark.parametrize(("policy", "name", "size"), SHARING)
def test_a_loaded_policy_reads_the_model_of_its_new_environment(pairs, tmp_path, policy, name, size):
    agent = sharing(pairs, policy, name, size)
    iterate(agent, 2)
    agent.save(tmp_path / "agent.zip")
    assert agent.policy_kwargs[name] is agent.model
    model = model_of(pairs, tracker_size=size)
    env = ShiftReduceEnv(pairs, reward="accuracy", model=model)
    loaded = PolicyGradient.load(tmp_path / "agent.zip", env=env, device="cpu", trusted=True)
    assert loaded.policy_kwargs[name] is loaded.model is model
    assert same_weights(weights_of(model), weights_of(agent.model))
    batch = pairs.batch(np.arange(4))
    assert torch.equal(loaded.policy.derive(batch, greedy=True), agent.policy.derive(batch, greedy=True))
    iterate(loaded, 1)
    assert not same_weights(weights_of(model), weights_of(agent.model))


@pytest.mark.parametrize(("policy", "name", "size"), SHARING)
def test_a_policy_of_another_model_is_refused(pairs, policy, name, size):
    kwargs = sharing(pairs, policy, name, size).policy_kwargs
    with pytest.raises(ValueError, match=f"the policy's {name} is another model than the environment's own"):
        agent_of(pairs, "accuracy", model=model_of(pairs), policy=policy, policy_kwargs=kwargs)
