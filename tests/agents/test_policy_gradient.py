"""The native agent: it learns, a control does not, and it behaves as an algorithm of Stable-Baselines3."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import LinearSchedule
from torch import Tensor

from rlparse import lockstep
from rlparse.corpora.batching import Batch
from rlparse.corpora.corpus import Corpus
from rlparse.errors import NonFiniteLossError
from rlparse_agents.estimator import Estimator
from rlparse_agents.fixed import FixedTreePolicy
from rlparse_agents.iteration import TransitionBar
from rlparse_agents.policy import TrackerPolicy
from rlparse_agents.policy_gradient import PolicyGradient
from rlparse_envs import BranchingF1Reward, ShiftReduceEnv
from rlparse_envs.rewards import AccuracyReward, Reward
from small_agents import agent_of, iterate, model_of, recording, same_weights, weights_of

ALWAYS = {
    "rollout/reward",
    "rollout/depth",
    "time/examples_per_second",
    "time/transitions_per_second",
    "time/data_wait",
    "time/iterations",
    "time/epochs",
    "time/total_timesteps",
}
OF_A_LEARNING_POLICY = {
    "rollout/entropy",
    "train/policy_loss",
    "train/advantage_mean",
    "train/advantage_std",
    "train/grad_norm_policy",
    "train/learning_rate_policy",
}
OF_A_LEARNING_ENCODER = {
    "rollout/accuracy",
    "train/cross_entropy",
    "train/grad_norm_encoder",
    "train/learning_rate_encoder",
}
"""Every tag that the agent records. `docs/metrics.md` defines each."""


# --------------------------------------------------------------------------------------------------- learning


class Shuffled:
    """The same rewards, given to the wrong parses: nothing can be learned from them."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, batch: Batch, transitions: Tensor) -> Tensor:
        rewards = self.reward(batch, transitions)
        return rewards[torch.randperm(len(rewards), generator=self.generator)]


LEARNING = {"batch_size": 16, "n_parses": 4, "learning_rate": 0.02, "entropy_coef": 0.0}


def greedy_f1(agent: PolicyGradient, corpus: Corpus, branching: str = "right") -> float:
    batch = corpus.batch(np.arange(len(corpus)))
    transitions = agent.policy.derive(batch, greedy=True)
    return float(BranchingF1Reward(branching)(batch, transitions).mean())


@pytest.mark.parametrize("branching", ["right", "left"])
def test_it_learns_to_build_the_trees_that_are_rewarded(word_salad, branching):
    agent = agent_of(word_salad, BranchingF1Reward(branching), **LEARNING)
    curve = iterate_and_read(agent, 25)
    assert np.mean(curve[:3]) < 0.65
    assert np.mean(curve[-5:]) > 0.95
    assert greedy_f1(agent, word_salad, branching) > 0.98


def test_it_learns_nothing_from_shuffled_rewards(word_salad):
    agent = agent_of(word_salad, Shuffled(BranchingF1Reward("right")), **LEARNING)
    curve = iterate_and_read(agent, 25)
    assert np.mean(curve[-5:]) < 0.7


def test_it_learns_without_a_baseline_too(word_salad):
    """With rewards around 0, so that the bare return says what is better than usual."""
    right = BranchingF1Reward("right")

    def centred(batch: Batch, transitions: Tensor) -> Tensor:
        return right(batch, transitions) - 0.6

    agent = agent_of(
        word_salad,
        centred,
        **(LEARNING | {"estimator": Estimator(baseline="none"), "n_parses": 1, "batch_size": 64}),
    )
    curve = iterate_and_read(agent, 25)
    assert np.mean(curve[-5:]) + 0.6 > 0.9


def test_it_learns_the_gold_trees_it_is_rewarded_for(word_salad):
    """The gold trees of random words follow no rule, but a few can be learned by heart."""
    few = word_salad.subset(range(6))
    agent = agent_of(few, "gold_f1", **(LEARNING | {"batch_size": 6, "n_parses": 16}))
    curve = iterate_and_read(agent, 35)
    assert np.mean(curve[:3]) < 0.65
    assert np.mean(curve[-5:]) > 0.85


def iterate_and_read(agent: PolicyGradient, n: int) -> list[float]:
    writer = recording(agent)
    iterate(agent, n)
    return writer.curve("rollout/reward")


# ------------------------------------------------------------------------------------------ with a classifier


@pytest.mark.parametrize("reward", ["accuracy", "log_likelihood"])
def test_a_classifier_is_trained_beside_the_policy(pairs, reward):
    model = model_of(pairs)
    agent = agent_of(pairs, reward, model=model, learning_rate=0.01, encoder_learning_rate=0.02)
    writer = recording(agent)
    before = weights_of(model), weights_of(agent.policy)
    iterate(agent, 20)
    assert not same_weights(before[0], weights_of(model))
    assert not same_weights(before[1], weights_of(agent.policy))
    entropy = writer.curve("train/cross_entropy")
    assert entropy[0] == pytest.approx(math.log(3), rel=0.1)
    assert np.mean(entropy[-5:]) < 0.3
    rewards = writer.curve("rollout/reward")
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.2
    if reward == "accuracy":
        assert rewards == writer.curve("rollout/accuracy")
        assert np.mean(rewards[-5:]) > 0.9
    else:
        assert all(r <= 0 for r in rewards)
        assert rewards[0] == pytest.approx(-entropy[0], abs=0.1)  # dropout apart


def test_rewards_are_what_the_classifier_says_without_dropout(pairs):
    model = model_of(pairs, dropout=0.9)
    agent = agent_of(pairs, "accuracy", model=model)
    frozen = model_of(pairs, dropout=0.0)
    iterate(agent, 1)
    last = agent.last_iteration
    assert last is not None
    assert last.logits is not None
    torch.testing.assert_close(last.logits, frozen.eval()(last.batch, last.transitions))
    expected = (last.logits.argmax(1) == last.batch.labels).float()
    assert torch.equal(last.rewards, expected)


def test_a_classifier_can_be_left_as_it_is(pairs):
    model = model_of(pairs)
    agent = agent_of(pairs, "accuracy", model=model, train_encoder=False)
    before = weights_of(model)
    iterate(agent, 3)
    assert same_weights(before, weights_of(model))
    assert agent.encoder_optimizer is None
    assert agent.last_iteration is not None
    assert agent.last_iteration.logits is not None


@pytest.mark.parametrize("with_model", [False, True])
def test_other_rewards_need_no_classifier_but_may_have_one(pairs, with_model):
    model = model_of(pairs) if with_model else None
    agent = agent_of(pairs, "gold_f1", model=model)
    iterate(agent, 2)
    last = agent.last_iteration
    assert last is not None
    assert (last.logits is not None) == with_model
    assert (agent.encoder_optimizer is not None) == with_model
    f1 = ShiftReduceEnv(pairs, reward="gold_f1").reward(last.batch, last.transitions)
    assert torch.equal(last.rewards, f1)


def test_frozen_word_vectors_stay_as_they_are(pairs):
    model = model_of(pairs)
    model.set_embeddings(torch.randn(len(pairs.vocabulary), 8), trainable=False)
    before = weights_of(model)
    iterate(agent_of(pairs, "accuracy", model=model), 3)
    after = weights_of(model)
    assert [name for name in before if torch.equal(before[name], after[name])] == ["embedding.weight"]


def test_a_policy_that_reads_the_encoder_is_judged_by_the_weights_that_made_its_parses(pairs):
    """The encoder's step comes after the policy's gradient, or log-probs would be of another policy."""
    seen = []

    class Watched(PolicyGradient):
        def _weigh(self, examples, rollout, *rest):
            seen.append(weights_of(self.model))
            judged = self.policy.judge(rollout).distribution.log_prob(rollout.transitions)
            torch.testing.assert_close(judged, rollout.log_probs)
            return super()._weigh(examples, rollout, *rest)

    model = model_of(pairs)
    env = ShiftReduceEnv(pairs, reward="accuracy", model=model)
    options = {"n_tokens": len(pairs.vocabulary), "tracker_size": 4, "reads": "encoder", "encoder": model}
    agent = Watched("TrackerPolicy", env, policy_kwargs=options, batch_size=4, seed=0, device="cpu")
    before = weights_of(model)
    iterate(agent, 1)
    assert same_weights(seen[0], before)
    assert not same_weights(weights_of(model), before)


# --------------------------------------------------------------------------------------------- one iteration


def test_an_iteration_takes_a_batch_and_parses_every_example_k_times(pairs):
    agent = agent_of(pairs, n_parses=3)
    order = agent.order.epoch_batches(0)[0]
    iterate(agent, 1)
    last = agent.last_iteration
    assert last is not None
    assert torch.equal(last.batch.indices, torch.from_numpy(order).repeat_interleave(3))
    assert last.transitions.shape == (2 * 4 * 3, last.batch.gold.shape[1])
    assert last.rewards.shape == (12,)
    assert last.seconds > 0
    replayed = lockstep.trace(last.transitions, last.batch.lengths)
    assert all(torch.equal(a, b) for a, b in zip(last.trace, replayed, strict=True))
    assert agent.n_iterations == 1
    assert agent.num_timesteps == int((2 * last.batch.lengths - 1).sum())
    assert agent.num_timesteps == 3 * int((2 * pairs.lengths - 1).sum())
    assert (agent.order.epoch, agent.order.position) == (1, 0)


def test_batches_hold_sentences_of_one_length_or_of_many(word_salad):
    def spread(agent: PolicyGradient) -> float:
        batches = agent.order.epoch_batches(0)
        return float(np.mean([np.ptp(word_salad.lengths[batch]) for batch in batches]))

    n = len(word_salad) // 4
    assert spread(agent_of(word_salad, batch_size=n, pool_batches=1)) > 2 * spread(
        agent_of(word_salad, batch_size=n)
    )


def test_gradients_are_clipped(pairs):
    model = model_of(pairs)
    agent = agent_of(pairs, "accuracy", model=model, max_grad_norm=1e-3, entropy_coef=1.0)
    writer = recording(agent)
    iterate(agent, 1)
    for module, whose in ((agent.policy, "policy"), (model, "encoder")):
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt().item()
        assert norm <= 1e-3 * 1.0001
        (said,) = writer.curve(f"train/grad_norm_{whose}")
        assert said > norm or said == pytest.approx(norm)
    assert writer.curve("train/grad_norm_encoder")[0] > 1e-2


def test_learning_rates_follow_their_schedules(pairs):
    agent = agent_of(
        pairs,
        "accuracy",
        model=model_of(pairs),
        learning_rate=LinearSchedule(0.1, 0.0, 1.0),
        encoder_learning_rate=0.05,
    )
    writer = recording(agent)
    per_iteration = 4 * int((2 * pairs.lengths - 1).sum())
    agent.learn(4 * per_iteration)
    assert agent.n_iterations == 4
    assert writer.curve("train/learning_rate_policy") == pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert writer.curve("train/learning_rate_encoder") == [0.05] * 4
    assert agent.policy_optimizer is not None
    assert agent.policy_optimizer.param_groups[0]["lr"] == pytest.approx(0.025)


@pytest.mark.parametrize("whose", ["policy", "encoder"])
def test_weight_decay_is_the_owners(pairs, whose):
    agent = agent_of(
        pairs, "accuracy", model=model_of(pairs), policy_weight_decay=0.1, encoder_weight_decay=0.2
    )
    optimizer = getattr(agent, f"{whose}_optimizer")
    assert optimizer.param_groups[0]["weight_decay"] == {"policy": 0.1, "encoder": 0.2}[whose]


def test_policy_and_classifier_share_no_parameter(pairs):
    model = model_of(pairs)
    agent = agent_of(pairs, "accuracy", model=model)
    assert agent.policy_optimizer is not None
    assert agent.encoder_optimizer is not None
    policy, encoder = (
        {id(p) for group in optimizer.param_groups for p in group["params"]}
        for optimizer in (agent.policy_optimizer, agent.encoder_optimizer)
    )
    assert policy.isdisjoint(encoder)
    assert encoder == {id(p) for p in model.parameters()}


def test_the_seed_decides_everything(pairs):
    finals = []
    for seed in (0, 0, 1):
        agent = agent_of(pairs, "accuracy", model=model_of(pairs), seed=seed)
        iterate(agent, 3)
        finals.append(weights_of(agent.policy) | weights_of(agent.model))
    assert same_weights(finals[0], finals[1])
    assert not same_weights(finals[0], finals[2])


# ------------------------------------------------------------------------------------------------ fixed parsers


@pytest.mark.parametrize("kind", ["left", "random", "gold"])
def test_a_fixed_parser_trains_the_classifier_only(pairs, kind):
    model = model_of(pairs)
    agent = agent_of(
        pairs, "accuracy", model=model, policy="FixedTreePolicy", policy_kwargs={"kind": kind}, n_parses=1
    )
    writer = recording(agent)
    before = weights_of(model)
    iterate(agent, 2)
    assert isinstance(agent.policy, FixedTreePolicy)
    assert not same_weights(before, weights_of(model))
    assert set(writer.points[0][1]) == ALWAYS | OF_A_LEARNING_ENCODER


# --------------------------------------------------------------------------------------------------- curves


@pytest.mark.parametrize(
    ("reward", "with_model", "train_encoder", "tags"),
    [
        ("gold_f1", False, None, OF_A_LEARNING_POLICY),
        ("gold_f1", True, None, OF_A_LEARNING_POLICY | OF_A_LEARNING_ENCODER),
        ("accuracy", True, True, OF_A_LEARNING_POLICY | OF_A_LEARNING_ENCODER),
        ("accuracy", True, False, OF_A_LEARNING_POLICY | {"rollout/accuracy"}),
    ],
)
def test_what_is_logged_is_what_is_documented(pairs, reward, with_model, train_encoder, tags):
    agent = agent_of(
        pairs, reward, model=model_of(pairs) if with_model else None, train_encoder=train_encoder
    )
    writer = recording(agent)
    iterate(agent, 3)
    assert len(writer.points) == 3
    for step, values in writer.points:
        assert set(values) == ALWAYS | tags
        assert all(math.isfinite(value) for value in values.values())
        assert step == values["time/total_timesteps"]
    assert writer.curve("time/iterations") == [1, 2, 3]
    assert writer.curve("time/epochs") == [1, 2, 3]


def test_curves_say_what_happened(pairs):
    agent = agent_of(pairs)
    writer = recording(agent)
    iterate(agent, 1)
    last = agent.last_iteration
    assert last is not None
    values = writer.points[0][1]
    assert values["rollout/reward"] == pytest.approx(last.rewards.mean().item())
    own = last.rewards.view(4, 4)
    advantages = (own - own.mean(1, keepdim=True)) * 4 / 3
    assert values["train/advantage_mean"] == pytest.approx(0, abs=1e-6)
    assert values["train/advantage_std"] == pytest.approx(advantages.std(correction=0).item(), rel=1e-5)
    assert 0 < values["rollout/entropy"] <= 1


def test_points_come_at_the_interval_and_hold_means(pairs):
    agent = agent_of(pairs)
    writer = recording(agent)
    rewards = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            rewards.append(agent.last_iteration.rewards.mean().item())
            return len(rewards) < 7

    agent.learn(10**9, callback=Watch(), log_interval=3)
    assert writer.curve("time/iterations") == [3, 6]
    expected = [np.mean(rewards[:3]), np.mean(rewards[3:6])]
    assert writer.curve("rollout/reward") == pytest.approx(expected)


def test_tensorboard_files_are_written(pairs, tmp_path):
    agent = agent_of(pairs, tensorboard_log=str(tmp_path), log_interval=1)
    agent.learn(1, tb_log_name="mine")
    assert list((tmp_path / "mine_1").glob("events.out.tfevents.*"))


# ------------------------------------------------------------------------------------- Stable-Baselines3's habits


def test_evaluation_and_checkpoint_callbacks(pairs, tmp_path):
    agent = agent_of(pairs, BranchingF1Reward("right"))
    evaluation = Monitor(ShiftReduceEnv(pairs, reward=BranchingF1Reward("right"), order="sequential"))
    evaluate = EvalCallback(
        evaluation,
        eval_freq=2,
        n_eval_episodes=4,
        log_path=str(tmp_path),
        best_model_save_path=str(tmp_path),
        verbose=0,
    )
    save = CheckpointCallback(save_freq=2, save_path=str(tmp_path), name_prefix="agent")

    class StopAfter(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls < 5

    agent.learn(10**9, callback=[evaluate, save, StopAfter()])
    logged = np.load(tmp_path / "evaluations.npz")
    assert logged["results"].shape == (2, 4)  # after the 2nd and the 4th iteration
    assert logged["ep_lengths"][0].tolist() == (2 * pairs.lengths - 1).sum(1).tolist()
    assert (logged["results"] <= 1).all()
    steps = logged["timesteps"].tolist()
    saved = sorted(path.name for path in tmp_path.glob("agent_*.zip"))
    assert saved == sorted(f"agent_{step}_steps.zip" for step in steps)
    assert (tmp_path / "best_model.zip").is_file()


def test_what_is_evaluated_are_the_greedy_parses(pairs):
    agent = agent_of(pairs, BranchingF1Reward("right"))
    iterate(agent, 20)
    env = Monitor(ShiftReduceEnv(pairs, reward=BranchingF1Reward("right"), order="sequential"))
    mean, _ = evaluate_policy(agent, env, n_eval_episodes=len(pairs))
    assert mean == pytest.approx(greedy_f1(agent, pairs), abs=1e-6)


def test_a_callback_of_ones_own_sees_the_iteration_and_stops_it(pairs):
    agent = agent_of(pairs)
    calls = []

    class Own(BaseCallback):
        def _on_training_start(self) -> None:
            calls.append("start")

        def _on_rollout_start(self) -> None:
            calls.append("rollout")

        def _on_step(self) -> bool:
            assert self.model is agent
            assert agent.last_iteration is not None
            assert self.num_timesteps == agent.num_timesteps > 0
            calls.append(f"step {agent.n_iterations}")
            return agent.n_iterations < 2

        def _on_rollout_end(self) -> None:
            calls.append("rollout end")

        def _on_training_end(self) -> None:
            calls.append("end")

    assert agent.learn(10**9, callback=Own()) is agent
    assert calls == [
        "start",
        *("rollout", "step 1", "rollout end"),
        *("rollout", "step 2", "rollout end"),
        "end",
    ]


def test_it_stops_at_the_total_and_goes_on_counting(pairs):
    agent = agent_of(pairs)
    per_iteration = 4 * int((2 * pairs.lengths - 1).sum())
    agent.learn(2 * per_iteration - 1)
    assert (agent.n_iterations, agent.num_timesteps) == (2, 2 * per_iteration)
    agent.learn(per_iteration, reset_num_timesteps=False)
    assert (agent.n_iterations, agent.num_timesteps) == (3, 3 * per_iteration)
    agent.learn(per_iteration)
    assert (agent.n_iterations, agent.num_timesteps) == (4, per_iteration)


@pytest.mark.filterwarnings("ignore:rich is experimental")
@pytest.mark.parametrize("form", ["none", "one", "list", "function"])
def test_the_progress_bar_counts_transitions(pairs, monkeypatch, form):
    agent = agent_of(pairs)
    bars = []

    class Bar:
        def __init__(self, total: int) -> None:
            self.total, self.n, self.closed = total, 0, False
            bars.append(self)

        def update(self, by: int) -> None:
            assert by > 0
            self.n += by

        def refresh(self) -> None:
            pass

        def close(self) -> None:
            self.closed = True

    monkeypatch.setattr("stable_baselines3.common.callbacks.tqdm", Bar)

    class Silent(BaseCallback):
        def _on_step(self) -> bool:
            return True

    given: Any = {"none": None, "one": Silent(), "list": [Silent()], "function": lambda *_: True}[form]
    per_iteration = 4 * int((2 * pairs.lengths - 1).sum())
    agent.learn(2 * per_iteration, callback=given, progress_bar=True)
    agent.learn(per_iteration, callback=given, progress_bar=True, reset_num_timesteps=False)
    assert [(bar.total, bar.n, bar.closed) for bar in bars] == [
        (2 * per_iteration, 2 * per_iteration, True),
        (per_iteration, per_iteration, True),
    ]


@pytest.mark.filterwarnings("ignore:rich is experimental")
def test_the_real_progress_bar(pairs, capsys):
    agent_of(pairs).learn(300, progress_bar=True)
    assert isinstance(TransitionBar(), BaseCallback)
    printed = capsys.readouterr()
    assert "100%" in printed.out + printed.err or "300" in printed.out + printed.err


def zip_names(path: Path | io.BytesIO) -> set[str]:
    with zipfile.ZipFile(path) as file:
        return set(file.namelist())


@pytest.mark.parametrize("reward", ["gold_f1", "accuracy"])
def test_a_saved_agent_holds_its_weights_and_can_be_loaded(pairs, tmp_path, reward):
    model = model_of(pairs) if reward == "accuracy" else None
    agent = agent_of(pairs, reward, model=model)
    iterate(agent, 3)
    agent.save(tmp_path / "agent.zip")
    names = zip_names(tmp_path / "agent.zip")
    expected = {"policy.pth", "policy_optimizer.pth", "learned.pth"}
    if model is not None:
        expected |= {"model.pth", "encoder_optimizer.pth"}
    assert expected == {name for name in names if name.endswith(".pth")} - {"pytorch_variables.pth"}
    assert (tmp_path / "agent.zip").stat().st_size < 300_000  # neither corpus nor batches are in it

    other = model_of(pairs) if model is not None else None
    env = ShiftReduceEnv(pairs, reward=reward, model=other)
    loaded = PolicyGradient.load(tmp_path / "agent.zip", env=env, device="cpu", trusted=True)
    assert same_weights(weights_of(loaded.policy), weights_of(agent.policy))
    if other is not None:
        assert same_weights(weights_of(other), weights_of(model))
    assert loaded.n_iterations == 3
    assert loaded.num_timesteps == agent.num_timesteps
    batch = pairs.batch(np.arange(4))
    assert torch.equal(loaded.policy.derive(batch, greedy=True), agent.policy.derive(batch, greedy=True))
    assert loaded.policy_optimizer is not None
    assert agent.policy_optimizer is not None
    a, b = (o.state_dict()["state"] for o in (loaded.policy_optimizer, agent.policy_optimizer))
    assert a.keys() == b.keys() != set()
    assert all(torch.equal(a[k]["exp_avg"], b[k]["exp_avg"]) for k in a)
    iterate(loaded, 1)


@pytest.mark.parametrize("policy", ["tracker", "fixed"])
def test_a_saved_policy_can_be_loaded(pairs, tmp_path, policy):
    """`BasePolicy.save`, apart from the agent."""
    if policy == "tracker":
        agent = agent_of(pairs)
        iterate(agent, 2)
    else:
        agent = agent_of(pairs, policy=FixedTreePolicy, policy_kwargs={"kind": "left"}, n_parses=1)
    agent.policy.save(str(tmp_path / "policy.pth"))
    loaded = type(agent.policy).load(str(tmp_path / "policy.pth"), device="cpu")
    assert isinstance(loaded, (TrackerPolicy, FixedTreePolicy))
    batch = pairs.batch(np.arange(4))
    assert torch.equal(loaded.derive(batch, greedy=True), agent.policy.derive(batch, greedy=True))
    observation, _ = ShiftReduceEnv(pairs).reset()
    loaded.predict(observation, deterministic=True)


def test_environment_ids_work(tmp_path):
    kwargs = {"n_tokens": 100, "embedding_size": 4, "hidden_size": 4, "tracker_size": 4}
    agent = PolicyGradient(
        "TrackerPolicy",
        "rlparse_envs:rlparse/ShiftReduce-v0",
        policy_kwargs=kwargs,
        batch_size=4,
        device="cpu",
    )
    iterate(agent, 1)
    assert agent.corpus.name
    observation = agent.get_env().reset()
    action, state = agent.predict(observation)
    assert action.shape == (1,)
    assert state is not None


# ------------------------------------------------------------------------------------------------------ errors


def snapshot(agent: PolicyGradient) -> dict[str, Tensor]:
    return weights_of(agent.policy) | weights_of(agent.model)


def test_a_reward_that_is_not_finite_changes_no_weights(pairs):
    def reward(batch: Batch, transitions: Tensor) -> Tensor:
        return torch.full((batch.n_examples,), math.nan)

    agent = agent_of(pairs, reward, model=model_of(pairs))
    before = snapshot(agent)
    with pytest.raises(
        NonFiniteLossError, match="the policy's loss is nan at iteration 0; no weights were changed"
    ):
        iterate(agent, 1)
    assert same_weights(snapshot(agent), before)
    assert agent.n_iterations == agent.num_timesteps == 0


def test_a_loss_of_the_classifier_that_is_not_finite_changes_no_weights(pairs):
    model = model_of(pairs)
    agent = agent_of(pairs, "accuracy", model=model)
    iterate(agent, 2)
    with torch.no_grad():
        model.head.classify.bias[0] = math.inf
    before = snapshot(agent)
    with pytest.raises(
        NonFiniteLossError, match="the encoder's loss is nan at iteration 2; no weights were changed"
    ):
        iterate(agent, 1)
    assert same_weights(snapshot(agent), before)


def test_what_an_iteration_measured_before_it_raised_is_forgotten(pairs):
    works = False

    def reward(batch: Batch, transitions: Tensor) -> Tensor:
        if not works:
            raise OSError("the judge is away")
        return torch.zeros(batch.n_examples)

    agent = agent_of(pairs, reward, model=model_of(pairs))
    writer = recording(agent)
    with pytest.raises(OSError, match="the judge is away"):
        iterate(agent, 1)
    works, agent.encoder_optimizer = True, None
    iterate(agent, 1)
    assert writer.points[0][1].keys() == ALWAYS | OF_A_LEARNING_POLICY | {"rollout/accuracy"}


@pytest.mark.parametrize("whose", ["policy", "encoder"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_no_weights(pairs, whose, bad):
    model = model_of(pairs)
    agent = agent_of(pairs, "accuracy", model=model)
    iterate(agent, 1)
    weight = agent.policy.head.weight if whose == "policy" else model.head.classify.weight
    handle = weight.register_hook(lambda gradient: torch.full_like(gradient, bad))
    before = snapshot(agent)
    message = f"the norm of the {whose}'s gradient is {bad} at iteration 1; no weights were changed"
    with pytest.raises(NonFiniteLossError, match=message):
        iterate(agent, 1)
    assert same_weights(snapshot(agent), before)
    handle.remove()
    iterate(agent, 1)  # and it can go on
    assert not same_weights(snapshot(agent), before)
    assert all(value.isfinite().all() for value in snapshot(agent).values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_parses": 1}, "needs n_parses >= 2, got 1; raise n_parses or use baseline='none'"),
        ({"batch_size": 0}, "batch_size and n_parses must be at least 1, got 0 and 4"),
        ({"n_parses": 0}, "batch_size and n_parses must be at least 1, got 4 and 0"),
        ({"train_encoder": True}, "train_encoder=True needs an environment with a model"),
        ({"policy": "MlpPolicy"}, "Policy MlpPolicy unknown"),
        (
            {"policy": "FixedTreePolicy", "policy_kwargs": {"kind": "centre"}},
            "unknown fixed parser 'centre'",
        ),
    ],
)
def test_options_that_do_not_fit(pairs, options, message):
    with pytest.raises(ValueError, match=message):
        agent_of(pairs, **options)


def test_the_reward_must_ask_the_model_that_is_trained(pairs):
    reward = AccuracyReward(model_of(pairs))
    with pytest.raises(ValueError, match="judges by another model than the environment's own"):
        agent_of(pairs, reward=reward, model=model_of(pairs))


def test_a_policy_must_parse_whole_batches(pairs):
    from stable_baselines3.common.policies import MultiInputActorCriticPolicy

    message = "policy must be a ParsingPolicy, which parses whole batches, got MultiInputActorCriticPolicy"
    with pytest.raises(ValueError, match=message):
        agent_of(pairs, policy=MultiInputActorCriticPolicy, policy_kwargs={})


def test_gold_rewards_need_gold_parses(half_parsed):
    agent = agent_of(half_parsed, batch_size=2)
    with pytest.raises(ValueError, match="gold_f1 needs a gold parse of every sentence"):
        iterate(agent, 1)
