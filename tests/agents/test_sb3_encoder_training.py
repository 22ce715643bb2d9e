"""The reward model learns by cross-entropy on finished parses while Stable-Baselines3 plays, and nothing else."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from torch.nn import functional as F

from rlparse.corpora.corpus import Corpus
from rlparse.corpora.examples import Example, Sentence
from rlparse.errors import NonFiniteLossError
from rlparse.models.nli_model import NLIModel
from rlparse.vocabulary import Vocabulary
from rlparse_agents.sb3_encoder_training import EncoderTrainingCallback, transitions_of
from rlparse_envs import AccuracyReward, ShiftReduceEnv, ShiftReduceVectorEnv
from rlparse_envs.sb3 import ShiftReduceVecEnv


@pytest.fixture(scope="module")
def questions():
    """Pairs whose class says whether both sentences begin with the same word."""
    rng = np.random.default_rng(0)
    examples = []
    for _ in range(60):
        words = [tuple(rng.choice(["a", "b", "c"], size)) for size in rng.integers(1, 5, 2)]
        label = "same" if words[0][0] == words[1][0] else "other"
        examples.append(Example(tuple(Sentence(tuple(map(str, w))) for w in words), label))
    corpus = Corpus.from_examples(examples, name="questions")
    return corpus.with_vocabulary(Vocabulary.build(corpus.token_counts()))


def model_of(corpus, **options):
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_size": 8, "mlp_size": 16, "dropout": 0.0}
    return NLIModel(len(corpus.vocabulary), len(corpus.labels), **(sizes | options))


def batched(corpus, model, num_envs=4, **options):
    options = {"reward": "accuracy", "observation": "features", **options}
    return ShiftReduceVecEnv(
        ShiftReduceVectorEnv(num_envs, corpus, model=model, autoreset_mode="SameStep", **options)
    )


def dummy(corpus, model, num_envs=4):
    make = partial(ShiftReduceEnv, corpus, reward="accuracy", model=model, observation="features")
    return DummyVecEnv([lambda: Monitor(make())] * num_envs)


def agent_of(env, algorithm=PPO):
    sizes = {
        PPO: {"n_steps": 32, "batch_size": 64, "n_epochs": 1},
        A2C: {},
        DQN: {"learning_starts": 16, "buffer_size": 500},
    }
    return algorithm("MlpPolicy", env, seed=0, device="cpu", **sizes[algorithm])


class Ends(BaseCallback):
    """Keeps what the episodes ended with."""

    def __init__(self):
        super().__init__()
        self.infos = []

    def _on_step(self):
        self.infos += [info for info in self.locals["infos"] if "derivations" in info]
        return True


def test_it_takes_the_steps_of_a_plain_training_loop(questions):
    model = model_of(questions)
    twin = copy.deepcopy(model)
    agent, ends = agent_of(batched(questions, model, 16)), Ends()
    training = EncoderTrainingCallback(
        lambda left: 0.01 * left, batch_size=7, weight_decay=0.1, max_grad_norm=0.5
    )
    agent.learn(512, callback=[ends, training])
    assert training.n_updates == len(ends.infos) // 7 > 2
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01, weight_decay=0.1)
    twin.train()
    for start in range(0, 7 * training.n_updates, 7):
        part = ends.infos[start : start + 7]
        losses = []
        for info in part:  # one example after the other
            batch = questions.batch([info["example"]])
            rows = torch.full((2, 2 * batch.tokens.shape[1] - 1), 2)
            for side, derivation in enumerate(info["derivations"]):
                rows[side, : len(derivation)] = torch.tensor(derivation)
            losses.append(F.cross_entropy(twin(batch, rows), batch.labels))
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        optimizer.step()  # 512 steps are one rollout, in which the progress remaining is 1
    for (name, weight), expected in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, atol=1e-5, rtol=1e-4, msg=name)


def test_single_and_batched_environments_teach_the_same(questions):
    models = [model_of(questions), model_of(questions)]
    for model, make in zip(models, (batched, dummy), strict=True):
        agent_of(make(questions, model)).learn(128, callback=EncoderTrainingCallback(batch_size=5))
    for weight, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(weight, other, atol=1e-5, rtol=1e-4)


def test_the_policy_is_left_to_the_algorithm(questions):
    weights = []
    for callback in (None, EncoderTrainingCallback(0.0, batch_size=4)):
        agent = agent_of(batched(questions, model_of(questions)))
        agent.learn(128, callback=callback)
        weights.append(list(agent.policy.parameters()))
    assert callback.n_updates > 2
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))


@pytest.mark.parametrize("algorithm", [PPO, A2C, DQN])
@pytest.mark.parametrize("reward", ["accuracy", "log_likelihood"])
def test_the_classifier_learns_while_they_play(algorithm, reward, questions, tmp_path):
    model = model_of(questions, dropout=0.1)
    model.eval()
    agent = agent_of(batched(questions, model, 16, reward=reward), algorithm)
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    training = EncoderTrainingCallback(0.01, batch_size=16)
    agent.learn(8192, callback=training, log_interval=4)
    agent.logger.close()
    assert not model.training
    majority = np.bincount(questions.label_indices).max() / len(questions)
    assert majority < 0.7
    assert np.mean(agent.ep_success_buffer) > 0.82
    names = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    tags = {"train/cross_entropy", "train/grad_norm_encoder", "train/learning_rate_encoder"}
    assert tags | {"train/encoder_updates", "rollout/success_rate"} <= set(names)


def test_training_goes_on_where_it_stopped(questions):
    training = EncoderTrainingCallback(batch_size=5)
    agent = agent_of(batched(questions, model_of(questions)))
    agent.learn(128, callback=training)
    before, optimizer = training.n_updates, training._learner[2]
    agent.learn(128, callback=training, reset_num_timesteps=False)
    assert training.n_updates > before
    assert training._learner[2] is optimizer


def test_typed_sentences_teach_nothing(questions):
    envs = batched(questions, model_of(questions))
    envs.set_options({"sentences": ["a b", "b"], "label": "other"})
    ends, training = Ends(), EncoderTrainingCallback(batch_size=1)
    agent_of(envs).learn(128, callback=[ends, training])
    typed = [info for info in ends.infos if info["example"] == -1]
    assert len(typed) == 4
    assert training.n_updates == len(ends.infos) - 4


def test_derivations_are_lined_up_side_by_side():
    found = transitions_of([((0,), (0, 0, 1)), ((0, 0, 1), (0,))], 2)
    assert found.tolist() == [[0, 2, 2], [0, 0, 1], [0, 0, 1], [0, 2, 2]]


def separate(corpus, _):
    make = [lambda: ShiftReduceEnv(corpus, reward="accuracy", model=model_of(corpus), observation="features")]
    return DummyVecEnv(make * 2)


def elsewhere(corpus, model):
    make = partial(ShiftReduceEnv, corpus, reward="accuracy", model=model, observation="features")
    return SubprocVecEnv([make, make], start_method="fork")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda c, _: batched(c, None, reward=lambda b, t: b.labels.float()), "has no model to train"),
        (separate, "must share one model and one corpus that has a vocabulary, found several"),
        (elsewhere, "SubprocVecEnv hold copies of the model in other processes"),
        (
            lambda c, m: batched(c, m, reward=AccuracyReward(model_of(c))),
            "reward judges by another model than the environment's own",
        ),
        (lambda c, m: batched(c, m, episode_info=False), "which episode_info=False leaves out"),
    ],
)
def test_what_cannot_be_trained_is_refused(make, message, questions):
    agent = agent_of(make(questions, model_of(questions)))
    try:
        with pytest.raises(ValueError, match=message):
            agent.learn(64, callback=EncoderTrainingCallback())
    finally:
        agent.env.close()


def test_batches_have_examples():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        EncoderTrainingCallback(batch_size=0)


def test_a_loss_that_is_not_finite_changes_nothing(questions):
    model = model_of(questions)
    with torch.no_grad():
        model.head.classify.weight[0, 0] = float("inf")
    before = copy.deepcopy(model.state_dict())
    env = batched(
        questions, model, reward=lambda batch, transitions: batch.labels[: batch.n_examples].float()
    )
    with pytest.raises(
        NonFiniteLossError, match=r"the encoder's loss is nan .* at update 0; no weights were changed"
    ):
        agent_of(env).learn(128, callback=EncoderTrainingCallback(batch_size=4))
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in before.items())
