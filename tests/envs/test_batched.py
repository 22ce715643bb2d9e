"""The vector environment does what as many single ones do, and says clearly what it cannot do."""

from __future__ import annotations

from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import rlparse_envs
from rlparse.errors import MalformedTreeError
from rlparse_envs import (
    BranchingF1Reward,
    FeatureObserver,
    GoldF1Reward,
    ShiftReduceEnv,
    ShiftReduceVectorEnv,
    SymbolicObserver,
)
from rlparse_envs.observations import HashedVectors
from rlparse_envs.vector_contract import VectorEnvironmentContract, check_vector_environment

ID = f"rlparse_envs:{rlparse_envs.SHIFT_REDUCE_ID}"


def late_shifts(batch, transitions):
    """A reward of one's own: the mean position of the SHIFTs of an example, as a share."""
    steps = torch.arange(transitions.shape[1])
    position = torch.where(transitions == 0, steps, 0).sum(1) / batch.lengths.square()
    return position.view(batch.n_sides, -1).mean(0)


class LoudObserver(SymbolicObserver):
    """One of one's own, which therefore is asked about one parser after the other."""

    def observe(self, situation):
        seen = super().observe(situation)
        seen["side"] += len(situation.tokens[0]) % 2 * (1 - seen["side"])
        return seen


class WholeStack:
    """An observer whose space is no Dict and no Box."""

    def __init__(self, size):
        counts = gymnasium.spaces.Box(0, size.max_tokens, (2,), np.int64)
        self.space = gymnasium.spaces.Tuple((counts, gymnasium.spaces.Discrete(2)))

    def observe(self, situation):
        counts = np.array([situation.parser.stack_size, situation.parser.buffer_size])
        return counts, np.int64(situation.side)


class Same(VectorEnvironmentContract):
    """Compares environments that are made with the same arguments."""

    def arguments(self):
        return {}

    def make_env(self):
        return ShiftReduceEnv(**self.arguments())

    def make_vector_env(self, num_envs, autoreset_mode):
        return ShiftReduceVectorEnv(num_envs, autoreset_mode=autoreset_mode, **self.arguments())


class TestDefaults(Same):
    pass


class TestTensors(Same):
    def make_vector_env(self, num_envs, autoreset_mode):
        return ShiftReduceVectorEnv(num_envs, autoreset_mode=autoreset_mode, output="torch")


class TestThroughMakeVec(Same):
    def make_vector_env(self, num_envs, autoreset_mode):
        return gymnasium.make_vec(ID, num_envs=num_envs, autoreset_mode=autoreset_mode)


@pytest.mark.parametrize("order", ["random", "sequential"])
class TestSingleSentences(Same):
    """One of the three has one word only."""

    @pytest.fixture(autouse=True)
    def _given(self, singles, order):
        self.given = {"corpus": singles, "order": order}

    def arguments(self):
        return self.given


@pytest.mark.parametrize("order", ["random", "sequential"])
@pytest.mark.parametrize(
    "reward",
    ["gold_f1", GoldF1Reward("nyu-root"), BranchingF1Reward("left"), late_shifts],
    ids=["gold_f1", "nyu-root", "left", "callable"],
)
class TestPairs(Same):
    """One sentence has one word, one has no tree, so that only some episodes have a part ``gold_f1``."""

    sizes = (4,)

    @pytest.fixture(autouse=True)
    def _given(self, pairs, order, reward):
        self.given = {"corpus": pairs, "order": order, "reward": reward, "max_tokens": 11}

    def arguments(self):
        return self.given


@pytest.mark.parametrize("reward", ["accuracy", "log_likelihood"])
class TestModelRewards(Same):
    sizes = (4,)
    tolerance = 1e-6

    @pytest.fixture(autouse=True)
    def _given(self, pairs, model, reward):
        self.given = {"corpus": pairs, "model": model, "reward": reward}

    def arguments(self):
        return self.given


@pytest.mark.parametrize(
    "observation",
    [
        "features",
        partial(FeatureObserver, stack_items=5, buffer_items=0, vectors=HashedVectors(0)),
        partial(FeatureObserver, stack_items=0, buffer_items=3, vectors=HashedVectors(3)),
        LoudObserver,
        WholeStack,
    ],
    ids=["features", "stack", "buffer", "own-dict", "own-tuple"],
)
class TestObservations(Same):
    @pytest.fixture(autouse=True)
    def _given(self, observation):
        self.given = {"observation": observation}

    def arguments(self):
        return self.given


class TestModelFeatures(Same):
    """Means over embeddings are sums of floats in another order."""

    tolerance = 1e-6

    @pytest.fixture(autouse=True)
    def _given(self, pairs, model):
        self.given = {"corpus": pairs, "model": model, "observation": "features", "reward": late_shifts}

    def arguments(self):
        return self.given


class TestThreeSentences(Same):
    @pytest.fixture(autouse=True)
    def _given(self, threes):
        self.given = {"corpus": threes}

    def arguments(self):
        return self.given


class TestOneWord(Same):
    """Every sentence has one word: an episode is one SHIFT."""

    @pytest.fixture(autouse=True)
    def _given(self, one_word):
        self.given = {"corpus": one_word}

    def arguments(self):
        return self.given


def both(num_envs, mode=AutoresetMode.NEXT_STEP, **arguments):
    single = partial(ShiftReduceEnv, **arguments)
    return (
        ShiftReduceVectorEnv(num_envs, autoreset_mode=mode, **arguments),
        SyncVectorEnv([single] * num_envs, autoreset_mode=mode),
    )


@pytest.mark.parametrize("mode", AutoresetMode)
def test_typed_sentences_are_played_like_those_of_the_corpus(pairs, mode):
    """Different ones at once, beside examples of the corpus, until they have ended."""
    contract = Same()
    envs = both(3, mode, corpus=pairs, reward=late_shifts)
    contract._require_same(*(env.reset(seed=1) for env in envs), "reset")
    masks = (np.array([True, False, False]), np.array([False, True, False]), np.array([True, True, False]))
    typed = (
        {"sentences": ["( a ( strange man ) )", "Stop"], "label": "neutral"},
        {"sentences": ["no brackets here", "( ( The old ) man )"]},
        {"sentences": ["Stop", "Stop"], "label": "entailment"},
    )
    rng = np.random.default_rng(0)
    for mask, options in zip(masks, typed, strict=True):
        answers = [env.reset(options=options | {"reset_mask": mask.copy()}) for env in envs]
        contract._require_same(*answers, f"reset to {options}")
        for step in range(30):
            actions = rng.integers(0, 2, 3)
            answers = [env.step(actions) for env in envs]
            contract._require_same(*answers, f"step {step} of {options}")
            if mode == AutoresetMode.DISABLED and answers[0][2].any():
                contract._require_same(
                    *(env.reset(options={"reset_mask": answers[1][2].copy()}) for env in envs), "reset"
                )


def test_typed_sentences_do_not_pile_up(pairs):
    env = ShiftReduceVectorEnv(2, pairs, reward=late_shifts, observation="features")
    env.reset(seed=0)
    sizes = []
    for _ in range(3):
        env.reset(options={"sentences": ["( quite ( unheard of ) )", "Stop"]})
        sizes.append(len(env._table.starts))
    assert sizes == [2 * len(pairs) + 2] * 3
    with pytest.raises(MalformedTreeError):
        env.reset(options={"sentences": ["( a b c )", "Stop"]})


def test_make_vec_gives_the_kind_that_is_asked_for():
    env = gymnasium.make_vec(ID, num_envs=3, observation="features")
    assert isinstance(env.unwrapped, ShiftReduceVectorEnv)
    assert (env.num_envs, env.spec.kwargs["observation"]) == (3, "features")
    assert repr(env) == f"ShiftReduceVectorEnv({rlparse_envs.SHIFT_REDUCE_ID}, num_envs=3)"
    one_by_one = gymnasium.make_vec(ID, num_envs=3, vectorization_mode="sync", observation="features")
    assert isinstance(one_by_one.unwrapped, SyncVectorEnv)
    Same()._require_same(env.reset(seed=4), one_by_one.reset(seed=4), "reset")
    env.close()
    one_by_one.close()


def test_without_episode_info_only_numbers_are_told(pairs, model):
    """The rest is as with it, and no array holds objects."""
    arguments = {"reward": "accuracy", "model": model, "autoreset_mode": "NextStep"}
    full, bare = (ShiftReduceVectorEnv(4, pairs, **arguments, episode_info=told) for told in (True, False))
    texts = {"lengths", "label", "prediction", "derivations", "parses", "gold_parses"}
    texts |= {f"_{key}" for key in texts}
    rng = np.random.default_rng(0)
    answers = [env.reset(seed=0) for env in (full, bare)]
    seen = set()
    for _ in range(60):
        seen |= answers[0][-1].keys()
        kept = {key: value for key, value in answers[0][-1].items() if key not in texts}
        Same()._require_same((*answers[1][:-1], answers[1][-1]), (*answers[0][:-1], kept), "without texts")
        actions = rng.integers(0, 2, 4)
        answers = [env.step(actions) for env in (full, bare)]
    assert texts <= seen


def test_tensors(pairs):
    """Numbers come as tensors, in infos too; actions may be tensors; texts stay objects."""
    env = ShiftReduceVectorEnv(3, pairs, output="torch", device="cpu", autoreset_mode="SameStep")
    observation, infos = env.reset(seed=torch.tensor(3).item())
    assert {type(value) for value in observation.values()} == {torch.Tensor}
    ended = torch.zeros(3, dtype=torch.bool)
    while not ended.any():
        assert env.action_masks().dtype == torch.bool
        actions = (~env.action_masks()[:, 0]).long()
        observation, rewards, ended, truncated, infos = env.step(actions)
    assert rewards.dtype == torch.float64
    assert truncated.dtype == infos["_final_info"].dtype == torch.bool
    row = int(ended.nonzero()[0])
    assert isinstance(infos["final_obs"][row]["tokens"], torch.Tensor)
    assert infos["final_info"]["reward_parts"]["gold_f1"][row] == rewards[row]
    assert isinstance(infos["final_info"]["parses"], np.ndarray)
    assert not env.step([0, 0, 0])[2].is_cuda


@pytest.mark.parametrize("mode", AutoresetMode)
def test_tensors_of_another_device(mode):
    """The device that every machine has keeps shapes and types only; all numbers have to be moved to it."""
    env = ShiftReduceVectorEnv(2, max_tokens=2, autoreset_mode=mode, output="torch", device="meta")
    answer = env.reset(seed=0)
    ended = False
    for _ in range(7):  # two sentences of two words at most take six steps
        tensors = [value for value in leaves(answer) if isinstance(value, torch.Tensor)]
        assert len(tensors) > 10
        assert all(tensor.is_meta for tensor in tensors)
        assert not any(isinstance(value, np.ndarray) for value in leaves(answer))
        ended |= "final_info" in answer[-1] or "reward_parts" in answer[-1]
        if not ended:
            answer = env.step([0, 0])
    assert ended


def leaves(data):
    """Everything that is no dict, no list and no array of objects."""
    if isinstance(data, dict):
        for value in data.values():
            yield from leaves(value)
    elif isinstance(data, (tuple, list)) or (isinstance(data, np.ndarray) and data.dtype == np.object_):
        for value in data:
            yield from leaves(value)
    else:
        yield data


@pytest.mark.gpu
def test_tensors_on_a_gpu():
    env = ShiftReduceVectorEnv(3, output="torch", device="cuda")
    observation, infos = env.reset(seed=0)
    assert observation["tokens"].is_cuda
    assert infos["action_mask"].is_cuda
    assert env.step(torch.zeros(3, dtype=torch.int64, device="cuda"))[1].is_cuda


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint64, list, torch.int8])
def test_actions_may_be_any_integers(kind):
    env = ShiftReduceVectorEnv(2)
    env.reset(seed=0)
    if kind is list:
        actions = [0, 1]
    elif isinstance(kind, torch.dtype):
        actions = torch.tensor([0, 1], dtype=kind)
    else:
        actions = np.array([0, 1], kind)
    assert env.step(actions)[-1]["illegal_action"].tolist() == [False, True]


def test_seeds_and_generators_are_those_of_the_parsers():
    env = ShiftReduceVectorEnv(3)
    env.reset(seed=7)
    assert env.np_random_seed == (7, 8, 9)
    env.reset(seed=[None, 5, None])
    assert env.np_random_seed == (7, 5, 9)
    assert len(env.np_random) == 3
    unseeded = ShiftReduceVectorEnv(2)
    assert len(set(unseeded.np_random_seed)) == 2


def test_unseeded_environments_draw_different_examples():
    examples = [ShiftReduceVectorEnv(8).reset()[1]["example"].tolist() for _ in range(2)]
    assert examples[0] != examples[1]


def test_many_episodes_are_drawn_as_one_by_one(singles):
    """More than are drawn ahead at once."""
    rng = np.random.default_rng(0)
    envs = both(2, AutoresetMode.SAME_STEP, corpus=singles)
    told = [[env.reset(seed=3)[1]["example"].tolist()] for env in envs]
    for _ in range(600):
        actions = rng.integers(0, 2, 2)
        for env, examples in zip(envs, told, strict=True):
            infos = env.step(actions)[-1]
            examples.append(infos.get("example", np.zeros(2)).tolist())
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs must be a whole number of at least 1, got 0"),
        ({"num_envs": 2.0}, "num_envs must be a whole number of at least 1, got 2.0"),
        ({"num_envs": True}, "num_envs must be a whole number of at least 1, got True"),
        (
            {"autoreset_mode": "sometimes"},
            "must be an AutoresetMode or one of 'NextStep', 'SameStep', 'Disabled', got 'sometimes'",
        ),
        ({"output": "jax"}, "output must be numpy or torch, got 'jax'"),
        ({"device": "cpu"}, "numpy arrays have no device, got device='cpu'; use output=\"torch\""),
        ({"render_mode": "ansi"}, "a batch of parsers cannot be drawn, got render_mode='ansi'"),
        ({"order": "backwards"}, "order must be random or sequential, got 'backwards'"),
        ({"reward": "fame"}, "reward must be one of gold_f1, .*, got 'fame'"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ShiftReduceVectorEnv(**arguments)


def test_bad_actions():
    env = ShiftReduceVectorEnv(4)
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"call reset\(\) first"):
        env.step([0] * 4)
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"before the first reset\(\)"):
        env.action_masks()
    env.reset(seed=0)
    shape = r"actions must be integers \(4,\), one for each parser, got "
    for actions, found in (
        ([0, 1], r"int64 \(2,\)"),
        ([[0]] * 4, r"int64 \(4, 1\)"),
        ([0.0] * 4, r"float64 \(4,\)"),
        ([True] * 4, r"bool \(4,\)"),
        (torch.zeros(4), r"float32 \(4,\)"),
        (0, r"int64 \(\)"),
    ):
        with pytest.raises(ValueError, match=shape + found):
            env.step(actions)
    for actions, found in (
        ([0, 1, 2, 3], "2 for parser 2"),
        (np.array([-1, 0, 0, 0], np.int8), "-1 for parser 0"),
    ):
        with pytest.raises(ValueError, match=rf"must be 0 \(SHIFT\) or 1 \(REDUCE\), got {found}"):
            env.step(actions)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_reward_that_raises_leaves_parsers_that_have_to_be_reset(pairs, mode):
    works = False

    def reward(batch, transitions):
        if not works:
            raise OSError("the judge is away")
        return late_shifts(batch, transitions)

    # One parser starts with the example of the fewest steps and ends first, another is in its second sentence then.
    arguments = {"corpus": pairs, "reward": reward, "order": "sequential", "autoreset_mode": mode}
    env, single = ShiftReduceVectorEnv(3, **arguments), ShiftReduceEnv(pairs, reward=reward)
    last = np.arange(3) == 2

    def play_until_it_raises():
        env.reset(options={"example": 0})
        env.reset(options={"example": 2, "reset_mask": last})
        for _ in range(3):
            env.step([0, 0, 0])
        with pytest.raises(OSError, match="the judge is away"):
            env.step([0, 0, 0])

    single.reset(options={"example": 2})
    for _ in range(3):
        single.step(0)
    with pytest.raises(OSError, match="the judge is away"):
        single.step(0)
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"call reset\(\) before step"):
        single.step(0)

    play_until_it_raises()
    message = (
        r"the last step raised and left parsers 2 at the end of a sentence: call reset\(\) before step\(\)"
    )
    for mask in (None, ~last):
        if mask is not None:
            env.reset(options={"example": 0, "reset_mask": mask})
        with pytest.raises(gymnasium.error.ResetNeeded, match=message):
            env.step([0, 0, 0])
    works = True
    for options in ({"example": 2, "reset_mask": last}, {"example": 2}):
        env.reset(options=options)
        for end in (False, False, False, True):
            _, rewards, terminated, _, _ = env.step([0, 0, 0])
            assert terminated[2] == end
        single.reset(options={"example": 2})
        assert rewards[2] == pytest.approx([single.step(0)[1] for _ in range(4)][-1])
        works = False
        play_until_it_raises()
        works = True


def test_a_reward_that_raises_spares_no_parser_at_the_end_of_a_sentence(pairs):
    """Those that wait for their second sentence, or for another example, have not been started either."""
    raises = False

    def reward(batch, transitions):
        if raises:
            raise OSError("the judge is away")
        return late_shifts(batch, transitions)

    env = ShiftReduceVectorEnv(4, pairs, reward=reward)
    # The four parsers take 15 steps for their first sentence, 5 for it, 3 + 1 for both and 3 + 1 for both, the third
    # beginning one step late: at the fifth step the second begins its other sentence, the third ends, and the last one
    # begins another example.
    for example, parsers in ((0, [0, 1, 2, 3]), (1, [1]), (2, [2, 3])):
        env.reset(options={"example": example, "reset_mask": np.isin(np.arange(4), parsers)})
    env.step([0] * 4)
    env.reset(options={"example": 2, "reset_mask": np.arange(4) == 2})
    for _ in range(3):
        env.step([0] * 4)
    raises = True
    with pytest.raises(OSError, match="the judge is away"):
        env.step([0] * 4)
    with pytest.raises(gymnasium.error.ResetNeeded, match="left parsers 1, 2, 3 at the end"):
        env.step([0] * 4)


def test_bad_resets():
    env = ShiftReduceVectorEnv(7, autoreset_mode=AutoresetMode.DISABLED)
    some = np.arange(7) < 1
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"leaves out 1, 2, 3, 4, 5 and 1 more"):
        env.reset(options={"reset_mask": some})
    env.reset(seed=0)
    for mask, found in (
        (some[1:], r"bool \(6,\)"),
        (some * 1, r"int64 \(7,\)"),
        ([True] * 7, r"\[True, .*\]"),
    ):
        with pytest.raises(
            ValueError, match=rf"'reset_mask' must be bool \(7,\), one for each parser, got {found}"
        ):
            env.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match="must choose at least one parser, got none"):
        env.reset(options={"reset_mask": some & False})
    with pytest.raises(ValueError, match="seeds must be one for each of 7 parsers, got 2"):
        env.reset(seed=[1, 2])
    with pytest.raises(ValueError, match="reset options are example, sentences, label; got 'exampel'"):
        env.reset(options={"exampel": 1})
    with pytest.raises(gymnasium.error.Error, match="-1"):
        env.reset(seed=-1)
    options = {"reset_mask": torch.from_numpy(some)}
    env.reset(options=options)
    assert list(options) == ["reset_mask"]
    ended = np.zeros(7, np.bool_)
    while not ended.any():
        ended = env.step(np.zeros(7, np.int64))[2]
    with pytest.raises(
        gymnasium.error.ResetNeeded, match=r"the episodes of parsers \d.* have ended: call reset"
    ):
        env.step(np.zeros(7, np.int64))


class Broken(ShiftReduceVectorEnv):
    """A vector environment whose answers a subclass falsifies."""

    def step(self, actions):
        return self.falsify(*super().step(actions))

    def falsify(self, observation, rewards, terminated, truncated, infos):
        raise NotImplementedError


class LateRewards(Broken):
    def falsify(self, observation, rewards, terminated, truncated, infos):
        return observation, rewards * 0, terminated, truncated, infos


class MissingMask(Broken):
    def falsify(self, observation, rewards, terminated, truncated, infos):
        infos.pop("_transition", None)
        return observation, rewards, terminated, truncated, infos


class KeepsTokens(Broken):
    def falsify(self, observation, rewards, terminated, truncated, infos):
        self.tokens = getattr(self, "tokens", observation["tokens"])
        self.tokens[:] = observation["tokens"]
        return observation | {"tokens": self.tokens}, rewards, terminated, truncated, infos


class OneSeed(ShiftReduceVectorEnv):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=0, options=options)


class AnyAction(ShiftReduceVectorEnv):
    def step(self, actions):
        return super().step(np.resize(np.asarray(actions), self.num_envs).astype(np.int64).clip(0, 1))


class OtherMode(ShiftReduceVectorEnv):
    def __init__(self, num_envs, autoreset_mode):
        super().__init__(num_envs)


class OldMasks(ShiftReduceVectorEnv):
    def action_masks(self):
        return super().action_masks()[::-1]


class NoOptions(ShiftReduceVectorEnv):
    def reset(self, *, seed=None, options=None):
        kept = {key: value for key, value in (options or {}).items() if key == "reset_mask"}
        return super().reset(seed=seed, options=kept)


@pytest.mark.parametrize(
    ("broken", "test", "message"),
    [
        (LateRewards, "next_step_autoreset_is_that_of", r"step \d+ \[.*\]: \[1\] must be float64"),
        (LateRewards, "same_step_autoreset_is_that_of", r"step \d+ \[.*\]: \[1\] must be float64"),
        (MissingMask, "next_step_autoreset_is_that_of", r"step 1 \[\d\]: \[4\] must have .*'_transition'"),
        (OneSeed, "resets_by_mask_are_those_of", r"then reset of .* must be"),
        (
            KeepsTokens,
            "returned_arrays_are_left_alone",
            r"\['tokens'\] shares its memory with .*; return new arrays",
        ),
        (
            AnyAction,
            "wrong_calls_are_errors",
            r"step\(array\(\[0, 0, 0, 0\]\)\) must raise ValueError, returned",
        ),
        (OtherMode, "spaces_are_those_of", r"metadata\['autoreset_mode'\] must be AutoresetMode.SAME_STEP"),
        (OldMasks, "masks_are_those_of_the_infos", r"action_masks\(\) at step \d+: value must be bool"),
        (NoOptions, "asked_for_examples_are_those_of", r"reset to example \d+: .* must be"),
    ],
)
def test_broken_vector_environments_are_noticed(broken, test, message):
    class Contract(Same):
        def make_vector_env(self, num_envs, autoreset_mode):
            return broken(num_envs, autoreset_mode=autoreset_mode)

    [name] = [name for name in dir(Contract) if name.startswith(f"test_{test}")]
    with pytest.raises(AssertionError, match=message):
        getattr(Contract(), name)()


def test_contract_without_pytest():
    class Small(Same):
        sizes = (2,)
        n_steps = 30

    check_vector_environment(Small())
    with pytest.raises(NotImplementedError, match=r"needs make_vector_env\(num_envs, autoreset_mode\)"):
        VectorEnvironmentContract().make_vector_env(1, AutoresetMode.DISABLED)
    with pytest.raises(NotImplementedError, match=r"needs make_env\(\)"):
        VectorEnvironmentContract().make_env()
