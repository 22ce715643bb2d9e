"""The environment plays the examples it is asked to play, and says clearly what it cannot."""

from __future__ import annotations

import re
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import rlparse_envs
from rlparse import PAD, trees
from rlparse.corpora.corpus import Corpus
from rlparse.corpora.examples import Example, Sentence
from rlparse.errors import MalformedTreeError
from rlparse.models.nli_model import NLIModel
from rlparse_envs import BranchingF1Reward, GoldF1Reward, ShiftReduceEnv
from rlparse_envs.observations import SymbolicObserver

ID = f"rlparse_envs:{rlparse_envs.SHIFT_REDUCE_ID}"


def play(env, derivations=None, **reset):
    """Play one episode along derivations, by default the gold ones; return the last step's answer."""
    _, info = env.reset(**reset)
    if derivations is None:
        derivations = [s.transitions for s in env.unwrapped.corpus.example(info["example"]).sentences]
    actions = [action for derivation in derivations for action in derivation]
    for step, action in enumerate(actions, 1):
        observation, reward, terminated, truncated, info = env.step(action)
        assert terminated == (step == len(actions))
        assert not truncated
    return observation, reward, info


def test_gold_derivations_earn_everything(pairs):
    env = ShiftReduceEnv(pairs)
    _, reward, info = play(env, options={"example": 0})
    assert reward == 1.0
    assert info["is_success"] is True
    assert info["n_illegal_actions"] == 0
    assert info["example"] == 0
    assert info["lengths"] == (8, 4)
    assert info["label"] == "entailment"
    assert (
        info["parses"]
        == info["gold_parses"]
        == (
            "( ( The ( old man ) ) ( ( sleeps ( on ( a bench ) ) ) . ) )",
            "( ( A man ) ( sleeps . ) )",
        )
    )
    assert info["derivations"] == tuple(s.transitions for s in pairs.example(0).sentences)
    assert info["reward_parts"] == {"gold_f1": 1.0}


def test_reward_is_the_mean_f1_of_both_sentences(pairs):
    derivations = [trees.left_branching(8), trees.left_branching(4)]
    _, reward, info = play(ShiftReduceEnv(pairs), derivations, options={"example": 0})
    gold = [set(trees.spans(s.transitions)) for s in pairs.example(0).sentences]
    f1 = [len(set(trees.spans(d)) & g) / len(g) for d, g in zip(derivations, gold, strict=True)]
    assert reward == pytest.approx(sum(f1) / 2)
    assert info["is_success"] is False


def test_hypothesis_follows_premise(pairs):
    env = ShiftReduceEnv(pairs)
    observation, info = env.reset(options={"example": 1})
    assert observation["side"] == [0]
    for action in trees.right_branching(3):
        assert observation["side"] == [0]
        observation, reward, terminated, _, info = env.step(action)
        assert (reward, terminated) == (0.0, False)
    assert observation["side"] == [1]
    assert observation["stack_size"] == [0]
    ids = pairs.vocabulary.encode(["Nobody", "runs", "."])
    assert observation["tokens"][:4].tolist() == [*ids.tolist(), 0]
    assert info["action_mask"].tolist() == [1, 0]
    assert "parses" not in info


def test_illegal_actions_are_coerced(pairs):
    env = ShiftReduceEnv(pairs)
    env.reset(options={"example": 1})
    actions = [1, 0, 1, 0, 0, 0, 0]  # nothing to reduce, then one word to reduce, then SHIFT beyond the end
    flags, taken = [], []
    for action in actions:
        _, _, _, _, info = env.step(action)
        flags.append(info["illegal_action"])
        taken.append(info["transition"])
    assert taken[:5] == [0, 0, 1, 0, 1]
    assert flags[:5] == [True, False, False, False, True]
    assert info["n_illegal_actions"] == sum(flags)


@pytest.mark.parametrize("action", [0, np.int64(0), np.array(0)])
def test_actions_of_every_integer_type(pairs, action):
    env = ShiftReduceEnv(pairs)
    env.reset(seed=0)
    assert env.step(action)[4]["transition"] == 0


@pytest.mark.parametrize("action", [2, -1, 0.0, None, "SHIFT"])
def test_what_is_no_action(pairs, action):
    env = ShiftReduceEnv(pairs)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action must be 0 \(SHIFT\) or 1 \(REDUCE\), got "):
        env.step(action)


def test_single_sentences(singles):
    env = ShiftReduceEnv(singles)
    assert env.observation_space["side"].contains(np.array([0], np.int16))
    _, reward, info = play(env, options={"example": 0})
    assert reward == 1.0
    assert info["parses"] == ("( ( ( [MAX 2 ) 9 ) ] )",)
    _, _, info = play(env, options={"example": 1})
    assert info["parses"] == ("7",)


def test_sequential_order_visits_every_example_and_starts_anew_with_a_seed(pairs):
    env = ShiftReduceEnv(pairs, reward=BranchingF1Reward("left"), order="sequential")
    assert [env.reset()[1]["example"] for _ in range(6)] == [0, 1, 2, 3, 0, 1]
    assert [env.reset(seed=9)[1]["example"], env.reset()[1]["example"]] == [0, 1]
    env.reset(options={"example": 3})
    assert env.reset()[1]["example"] == 2


def test_random_order_draws_every_example_about_equally_often(pairs):
    env = ShiftReduceEnv(pairs, reward=BranchingF1Reward("left"))
    env.reset(seed=0)
    counts = np.bincount([env.reset()[1]["example"] for _ in range(800)], minlength=4)
    assert counts.min() > 150


def test_unknown_order(pairs):
    with pytest.raises(ValueError, match="order must be random or sequential, got 'shuffled'"):
        ShiftReduceEnv(pairs, order="shuffled")


def test_examples_without_gold_are_not_drawn_for_gold_f1(pairs):
    env = ShiftReduceEnv(pairs, order="sequential")
    assert [env.reset()[1]["example"] for _ in range(4)] == [0, 1, 2, 0]
    with pytest.raises(
        ValueError,
        match="example 3 of corpus 'pairs' cannot be played: reward 'gold_f1' needs a gold parse of every",
    ):
        env.reset(options={"example": 3})


def test_corpus_without_gold(pairs):
    with pytest.raises(
        ValueError, match="reward 'gold_f1' needs gold parses, but corpus 'pairs' has no example"
    ):
        ShiftReduceEnv(pairs.subset([3]))
    assert ShiftReduceEnv(pairs.subset([3]), reward=BranchingF1Reward("left")).reset()[1]["example"] == 0


def test_longer_sentences_than_max_tokens_are_not_drawn(pairs):
    env = ShiftReduceEnv(pairs, max_tokens=3, order="sequential")
    assert [env.reset()[1]["example"] for _ in range(3)] == [1, 2, 1]
    assert env.observation_space["tokens"].shape == (3,)
    with pytest.raises(
        ValueError,
        match="example 0 of corpus 'pairs' cannot be played: it has 8 tokens in a sentence, max_tokens is 3",
    ):
        env.reset(options={"example": 0})


def test_impossible_max_tokens(pairs):
    with pytest.raises(ValueError, match="max_tokens must be at least 1, got 0"):
        ShiftReduceEnv(pairs, max_tokens=0)
    with pytest.raises(
        ValueError, match="has no example with at most max_tokens=1 tokens a sentence; the shortest needs 2"
    ):
        ShiftReduceEnv(pairs, max_tokens=1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"exampel": 1}, ValueError, "reset options are example, sentences, label; got 'exampel'"),
        ({"example": 4}, IndexError, "'example' must be from 0 to 3 in corpus 'pairs', got 4"),
        ({"example": -1}, IndexError, "'example' must be from 0 to 3 in corpus 'pairs', got -1"),
        ({"example": 1.5}, ValueError, r"must be a position in the corpus \(int\), got 1.5"),
        ({"example": True}, ValueError, r"must be a position in the corpus \(int\), got True"),
        (
            {"example": 1, "sentences": []},
            ValueError,
            "either an example of the corpus or sentences, got both",
        ),
        ({"label": "neutral"}, ValueError, "'label' belongs to 'sentences', which are missing"),
        ({"sentences": "A man"}, ValueError, "'sentences' must be a list of 2 texts, got 'A man'"),
        ({"sentences": 3}, ValueError, "'sentences' must be a list of 2 texts, got 3"),
        ({"sentences": ["a", 3]}, ValueError, r"'sentences' must be a list of 2 texts, got \['a', 3\]"),
        (
            {"sentences": ["A man"]},
            ValueError,
            r"must have 2 \(premise and hypothesis\) in corpus 'pairs', got 1",
        ),
        ({"sentences": ["A", " "]}, ValueError, "the hypothesis has no words: ' '"),
        (
            {"sentences": ["A", "B"], "label": "maybe"},
            ValueError,
            "'label' must be one of entailment, neutral, contradiction, got 'maybe'",
        ),
        (
            {"sentences": ["A man", "( A man ( sleeps )"]},
            MalformedTreeError,
            "bracket",
        ),
        (
            {"sentences": ["a b c d e f g h i", "B"]},
            ValueError,
            "the premise has 9 tokens, this environment takes 8; make it with max_tokens=9 or more",
        ),
    ],
)
def test_reset_options_that_cannot_be(pairs, options, error, message):
    env = ShiftReduceEnv(pairs, reward=BranchingF1Reward("left"))
    with pytest.raises(error, match=message):
        env.reset(options=options)
    env.reset(seed=0)  # still playable
    env.step(0)


def test_typed_sentences(pairs):
    env = ShiftReduceEnv(pairs, reward=BranchingF1Reward("left"))
    observation, info = env.reset(options={"sentences": ["A man doesn't sleep.", "( A ( man sleeps ) )"]})
    assert (info["example"], info["lengths"], info["label"]) == (-1, (6, 3), None)
    known = pairs.vocabulary.encode(["A", "man"]).tolist()
    assert observation["tokens"].tolist() == [*known, 1, 1, 1, *pairs.vocabulary.encode(["."]), 0, 0]
    for derivation in (trees.left_branching(6), trees.left_branching(3)):
        for action in derivation:
            _, reward, terminated, _, info = env.step(action)
    assert terminated
    assert reward == 1.0
    assert info["parses"] == ("( ( ( ( ( A man ) does ) n't ) sleep ) . )", "( ( A man ) sleeps )")
    assert info["gold_parses"] == (None, "( A ( man sleeps ) )")
    assert "gold_f1" not in info["reward_parts"]
    assert (info["example"], info["label"]) == (-1, None)


def test_typed_sentences_with_brackets_bring_their_gold(pairs):
    env = ShiftReduceEnv(pairs)
    options = {"sentences": ["( A ( man sleeps ) )", "Stop ."], "label": "neutral"}
    with pytest.raises(ValueError, match="reward 'gold_f1' needs a gold parse, but the hypothesis has none"):
        env.reset(options=options)
    for hypothesis, n in (("( Stop . )", 2), ("Stop", 1)):  # over one word there is only one tree
        options["sentences"][1] = hypothesis
        _, reward, info = play(env, [trees.right_branching(3), trees.right_branching(n)], options=options)
        assert reward == 1.0
        assert info["label"] == "neutral"
        assert info["gold_parses"][1] == hypothesis


def test_typed_words_of_the_vocabulary_are_not_tokenised(singles):
    env = ShiftReduceEnv(singles, reward=BranchingF1Reward("left"))
    observation, info = env.reset(options={"sentences": ["[MAX 2 7 ]"]})
    assert info["lengths"] == (4,)
    assert observation["tokens"][:4].tolist() == singles.vocabulary.encode(["[MAX", "2", "7", "]"]).tolist()


def test_vocabulary_of_the_corpus_is_built_where_it_has_none(pairs):
    bare = Corpus(pairs.arrays, pairs.names)
    env = ShiftReduceEnv(bare)
    assert bare.vocabulary is None
    assert set(env.corpus.vocabulary.tokens[2:]) == set(pairs.token_counts())


@pytest.mark.parametrize("reward", ["accuracy", "log_likelihood"])
def test_model_rewards(pairs, model, reward):
    env = ShiftReduceEnv(pairs, reward=reward, model=model)
    _, value, info = play(env, [trees.left_branching(3)] * 2, options={"example": 3})
    batch = pairs.batch([3])
    model.eval()
    with torch.no_grad():
        transitions = torch.tensor([trees.left_branching(3)] * 2)
        log_probs = model(batch, transitions).log_softmax(1)[0]
    right = pairs.labels.index("contradiction")
    expected = {"accuracy": float(log_probs.argmax() == right), "log_likelihood": log_probs[right].item()}
    assert info["reward_parts"] == pytest.approx(expected)
    assert value == pytest.approx(expected[reward])
    assert info["prediction"] == pairs.labels[int(log_probs.argmax())]
    assert info["is_success"] == (info["prediction"] == "contradiction")
    _, _, info = play(env, options={"example": 0})
    assert info["reward_parts"]["gold_f1"] == 1.0


def test_model_rewards_of_sentences_of_different_length_are_those_of_the_batch(pairs, model):
    env = ShiftReduceEnv(pairs, reward="log_likelihood", model=model, max_tokens=20)
    model.eval()
    batch = pairs.batch([0, 1, 2])
    with torch.no_grad():
        expected = model(batch, batch.gold).log_softmax(1).gather(1, batch.labels[:, None])[:, 0]
    found = [play(env, options={"example": i})[1] for i in range(3)]
    assert found == pytest.approx(expected.tolist(), abs=1e-5)


def test_typed_sentences_need_a_label_for_model_rewards(pairs, model):
    env = ShiftReduceEnv(pairs, reward="accuracy", model=model)
    with pytest.raises(
        ValueError,
        match="reward 'accuracy' needs the right class of typed sentences: reset option 'label', one of enta",
    ):
        env.reset(options={"sentences": ["A", "man"]})
    _, _, info = play(env, [[0], [0]], options={"sentences": ["A", "man"], "label": "neutral"})
    assert info["label"] == "neutral"
    assert info["is_success"] == (info["prediction"] == "neutral")


def test_model_has_to_fit_the_corpus(pairs, singles, model):
    with pytest.raises(ValueError, match="corpus 'pairs' has to share the model's vocabulary"):
        ShiftReduceEnv(Corpus(pairs.arrays, pairs.names), model=model)
    small = NLIModel(3, 2, n_sides=1, embedding_size=2, hidden_size=2, mlp_size=2)
    expected = (
        "the model does not fit corpus 'pairs': model 3 vocabulary entries, corpus "
        f"{len(pairs.vocabulary)}; model 2 classes, corpus 3; model 1 sentences per example, corpus 2"
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        ShiftReduceEnv(pairs, model=small)


def test_own_reward(pairs):
    seen = []

    def first_is_reduced(batch, transitions):
        seen.append((batch, transitions))
        return transitions[: batch.n_examples, 2].float()

    env = ShiftReduceEnv(pairs, reward=first_is_reduced)
    _, reward, info = play(env, [trees.left_branching(3), trees.right_branching(3)], options={"example": 1})
    assert reward == 1.0
    assert info["reward_parts"] == {"first_is_reduced": 1.0, "gold_f1": 0.5}
    assert "is_success" not in info
    (batch, transitions), *others = seen
    assert not others
    assert transitions.tolist() == [trees.left_branching(3), trees.right_branching(3)]
    assert batch.indices.tolist() == [1]
    _, reward, _ = play(env, options={"example": 2})
    assert seen[-1][1].tolist() == [[0, 0, 1], [0, PAD, PAD]]


@pytest.mark.parametrize(("convention", "expected"), [("nyu", 0.75), ("nyu-root", 0.5)])
def test_conventions_of_gold_f1_as_own_reward(pairs, convention, expected):
    env = ShiftReduceEnv(pairs, reward=GoldF1Reward(convention), order="sequential")
    _, reward, info = play(env, [trees.left_branching(3), trees.left_branching(3)], options={"example": 1})
    assert reward == expected
    assert info["reward_parts"] == pytest.approx({"gold_f1": 0.75, "GoldF1Reward": reward})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(2), r"reward '<lambda>' must return a tensor \[B\], here \[1\], got a tensor \(2,\)"),
        (torch.tensor(1.0), r"got a tensor \(\)"),
        (1.0, r"must return a tensor \[B\], here \[1\], got 1.0"),
        (torch.tensor([float("nan")]), "reward '<lambda>' must be finite, got nan"),
    ],
)
def test_own_reward_that_returns_nonsense(pairs, value, message):
    env = ShiftReduceEnv(pairs, reward=lambda batch, transitions: value)
    with pytest.raises(ValueError, match=message):
        play(env, options={"example": 2})


def test_own_observer(pairs):
    class Masked:
        def __init__(self, size):
            self.size = size
            self.space = gymnasium.spaces.Box(0, size.max_tokens, (1,), np.float32)

        def observe(self, situation):
            return np.array([len(situation.parser.stack)], np.float32)

    env = ShiftReduceEnv(pairs, observation=Masked)
    assert env.observer.size == (8, 2, len(pairs.vocabulary))
    env.reset(seed=0)
    assert env.step(0)[0].tolist() == [1.0]


def test_step_before_reset_and_after_the_end(pairs):
    env = ShiftReduceEnv(pairs, render_mode="ansi")
    for call in (lambda: env.step(0), env.action_masks, env.render):
        with pytest.raises(gymnasium.error.ResetNeeded, match=r"reset\(\)"):
            call()
    play(env, options={"example": 0})
    with pytest.raises(
        gymnasium.error.ResetNeeded,
        match=r"the episode has ended after 22 steps with one tree over each sentence: call reset\(\) before",
    ):
        env.step(0)


def test_render_modes(pairs, capsys):
    with pytest.raises(ValueError, match="render_mode must be ansi, human or None, got 'rgb_array'"):
        ShiftReduceEnv(pairs, render_mode="rgb_array")
    env = ShiftReduceEnv(pairs, render_mode="human")
    play(env, options={"example": 1})
    printed = capsys.readouterr().out
    assert env.render() is None
    assert printed.count("pairs 1 · label contradiction") == 1 + 10  # the reset and every step
    assert capsys.readouterr().out == ""
    silent = ShiftReduceEnv(pairs)
    silent.reset(seed=0)
    with pytest.warns(UserWarning, match="does nothing without a render mode"):
        assert silent.render() is None
    assert capsys.readouterr().out == ""


START = """\
pairs 1 · label contradiction · hypothesis · step 2 of 5
premise  ( Two ( women run ) )

stack   0  runs
        1  Nobody
buffer  .
legal   SHIFT or REDUCE

   Nobody ──╴1
   runs   ──╴0
 ▸ ."""

END = """\
typed example · hypothesis · step 1 of 1
premise  ( Stop . )

stack   0  Stop
buffer  (empty)
legal   nothing: the tree is complete

   Stop ──╴0

gold premise  ( Stop . )
gold hypothesis  Stop
reward  BranchingF1Reward 1.0000"""


def test_rendering(pairs):
    env = ShiftReduceEnv(pairs, render_mode="ansi", reward=BranchingF1Reward("left"))
    env.reset(options={"example": 1})
    for action in (0, 0, 0, 1, 1, 0, 0):
        env.step(action)
    assert env.render() == START
    play(env, [[0, 0, 1], [0]], options={"sentences": ["( Stop . )", "Stop"]})
    assert env.render() == END


@pytest.mark.parametrize("observation", ["symbolic", "features"])
def test_gymnasium_checker_has_no_warning(observation):
    env = gymnasium.make(ID, observation=observation)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


def test_made_environment_keeps_corpus_and_model(pairs, model):
    """Gymnasium copies the arguments of a registration, not the caller's: no second model or corpus."""
    env = gymnasium.make(ID, corpus=pairs, model=model, reward="accuracy")
    assert env.unwrapped.model is model
    assert env.unwrapped.corpus is pairs
    assert env.spec.max_episode_steps is None


def test_embedded_corpus_is_made_once():
    first, second = ShiftReduceEnv(), ShiftReduceEnv()
    assert first.corpus.arrays is second.corpus.arrays
    assert len(first.corpus) == 1000
    assert first.corpus.has_gold.all()


@pytest.mark.parametrize("vector", [gymnasium.vector.SyncVectorEnv, gymnasium.vector.AsyncVectorEnv])
def test_gymnasium_vector_environments(vector):
    envs = vector([ShiftReduceEnv] * 3)
    observations, infos = envs.reset(seed=0)
    assert observations["action_mask"].shape == (3, 2)
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(60):
        observations, rewards, terminated, _, infos = envs.step(rng.integers(0, 2, 3))
        assert ((rewards == 0) | terminated).all()
        ended += terminated.sum()
        if terminated.any():
            where = np.flatnonzero(terminated)
            assert all(isinstance(infos["parses"][i], tuple) for i in where)
            assert infos["reward_parts"]["gold_f1"][where] == pytest.approx(rewards[where])
    assert ended >= 3
    envs.close()


def test_symbolic_observation_is_the_default(pairs):
    assert isinstance(ShiftReduceEnv(pairs).observer, SymbolicObserver)


def test_tokens_that_are_brackets(capsys):
    tokens = ("(", "not", "a", ")")
    gold = Sentence(tokens, tuple(trees.left_branching(4)))
    corpus = Corpus.from_examples([Example((gold,), "0")], name="brackets")
    _, reward, info = play(ShiftReduceEnv(corpus, render_mode="human"), options={"example": 0})
    assert reward == 1.0
    assert info["parses"] == ("( ( ( -LRB- not ) a ) -RRB- )",)


def test_docstring_has_the_headings_of_gymnasium():
    headings = re.findall(r"^    ## (.*)$", ShiftReduceEnv.__doc__, re.MULTILINE)
    assert headings == [
        "Description",
        "Action Space",
        "Observation Space",
        "Rewards",
        "Starting State",
        "Episode End",
        "Information",
        "Arguments",
        "Version History",
    ]
