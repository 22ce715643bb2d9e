"""The environment keeps its contract, and the contract notices environments that do not."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import rlparse_envs
from rlparse.transitions import Transition
from rlparse_envs import BranchingF1Reward, ShiftReduceEnv
from rlparse_envs.contract import EnvironmentContract, check_environment


class TestDefaults(EnvironmentContract):
    def make_env(self):
        return ShiftReduceEnv()


class TestThroughMake(EnvironmentContract):
    def make_env(self):
        return gymnasium.make(f"rlparse_envs:{rlparse_envs.SHIFT_REDUCE_ID}", observation="features")


class TestPairs(EnvironmentContract):
    @pytest.fixture(autouse=True)
    def _given(self, pairs):
        self.corpus = pairs

    def make_env(self):
        return ShiftReduceEnv(self.corpus, reward=BranchingF1Reward("left"), order="sequential")


class TestSingleSentences(EnvironmentContract):
    @pytest.fixture(autouse=True)
    def _given(self, singles):
        self.corpus = singles

    def make_env(self):
        return ShiftReduceEnv(self.corpus, max_tokens=9, render_mode="ansi")


@pytest.mark.parametrize("reward", ["accuracy", "log_likelihood"])
class TestModelRewards(EnvironmentContract):
    @pytest.fixture(autouse=True)
    def _given(self, pairs, model, reward):
        self.arguments = {"corpus": pairs, "model": model, "reward": reward}

    def make_env(self):
        return ShiftReduceEnv(**self.arguments, observation="features")


class Lying(ShiftReduceEnv):
    """An environment whose answers a subclass falsifies after they are made."""

    def reset(self, **given):
        observation, info = super().reset(**given)
        self.n_steps = 0
        return self.falsify(observation, 0.0, False, info)[0::3]

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        self.n_steps += 1
        observation, reward, terminated, info = self.falsify(observation, reward, terminated, info)
        return observation, reward, terminated, truncated, info

    def falsify(self, observation, reward, terminated, info):
        raise NotImplementedError


class ReduceAlwaysLegal(Lying):
    """Wrong by the rule, but the same in all three places."""

    def falsify(self, observation, reward, terminated, info):
        if not terminated:
            info["action_mask"][1] = observation["action_mask"][1] = 1
        return observation, reward, terminated, info

    def action_masks(self):
        masks = super().action_masks()
        masks[1] |= masks.any()
        return masks


class MaskAfterTheEnd(Lying):
    def falsify(self, observation, reward, terminated, info):
        if terminated:
            info["action_mask"] = np.ones(2, np.int8)
        return observation, reward, terminated, info


class FloatMask(Lying):
    def falsify(self, observation, reward, terminated, info):
        info["action_mask"] = info["action_mask"].astype(np.float32)
        return observation, reward, terminated, info


class SwappedObservationMask(Lying):
    def falsify(self, observation, reward, terminated, info):
        observation["action_mask"] = observation["action_mask"][::-1].copy()
        return observation, reward, terminated, info


class LateMasks(ShiftReduceEnv):
    """action_masks() is that of the situation before."""

    def __init__(self):
        super().__init__()
        self.before = np.array([True, False])

    def step(self, action):
        self.before = super().action_masks()
        return super().step(action)

    def action_masks(self):
        return self.before.copy()


class MissingObservationMask(Lying):
    def __init__(self):
        super().__init__()
        del self.observation_space.spaces["action_mask"]

    def falsify(self, observation, reward, terminated, info):
        del observation["action_mask"]
        return observation, reward, terminated, info


class SilentIllegalActions(Lying):
    def falsify(self, observation, reward, terminated, info):
        info["illegal_action"] = False
        return observation, reward, terminated, info


class ForgetfulCount(Lying):
    def falsify(self, observation, reward, terminated, info):
        info["n_illegal_actions"] = int(info["illegal_action"])
        return observation, reward, terminated, info


class LyingTransition(Lying):
    """Says that the illegal action was taken."""

    def falsify(self, observation, reward, terminated, info):
        if info["illegal_action"]:
            info["transition"] = 1 - info["transition"]
        return observation, reward, terminated, info


class IllegalActionsAccepted(ShiftReduceEnv):
    """Plays SHIFT beyond the buffer and REDUCE below two items as a step that does nothing."""

    def step(self, action):
        if self.action_masks().any() and not self.action_masks()[action]:
            return self._observe(), 0.0, False, False, self._info(illegal=True)
        return super().step(action)


class EndsEarly(Lying):
    def falsify(self, observation, reward, terminated, info):
        return observation, reward, terminated or self.n_steps == 1, info


class NeverEnds(Lying):
    def falsify(self, observation, reward, terminated, info):
        return observation, reward, False, info


class EndsWithANumber(Lying):
    def falsify(self, observation, reward, terminated, info):
        return observation, reward, np.bool_(terminated), info


class Truncates(ShiftReduceEnv):
    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, terminated, info


class SharedArrays(Lying):
    """Fills the same arrays at every step."""

    def falsify(self, observation, reward, terminated, info):
        if not hasattr(self, "arrays"):
            self.arrays = observation
        for key, value in observation.items():
            self.arrays[key][...] = value
        return dict(self.arrays), reward, terminated, info


class SharedInfo(Lying):
    """Returns one dictionary with one mask for ever, and changes it."""

    def falsify(self, observation, reward, terminated, info):
        self.kept = getattr(self, "kept", {})
        self.kept.clear()
        self.kept.update(info)
        return observation, reward, terminated, self.kept


class WritesLater(Lying):
    """Takes back what it said at the step before."""

    def falsify(self, observation, reward, terminated, info):
        if self.n_steps:
            self.said_before["label"] = None
        self.said_before = info
        return observation, reward, terminated, info


class RewardAlongTheWay(Lying):
    def falsify(self, observation, reward, terminated, info):
        return observation, reward if terminated else 0.01, terminated, info


class RewardNotANumber(Lying):
    def falsify(self, observation, reward, terminated, info):
        return observation, float("nan") if terminated else 0.0, terminated, info


class UnexplainedReward(Lying):
    def falsify(self, observation, reward, terminated, info):
        return observation, reward + 1.0 if terminated else reward, terminated, info


class MoodyReward(Lying):
    """Pays more from episode to episode."""

    def falsify(self, observation, reward, terminated, info):
        if terminated:
            self.mood = getattr(self, "mood", 0.0) + 1.0
            reward += self.mood
            info["reward_parts"]["gold_f1"] = reward
        return observation, reward, terminated, info


class UnseededExamples(ShiftReduceEnv):
    """Draws its examples from a generator that no seed reaches."""

    rng = np.random.default_rng(0)

    def reset(self, *, seed=None, options=None):
        options = dict(options or {}) or {"example": int(self.rng.integers(len(self.corpus)))}
        return super().reset(seed=seed, options=options)


class SeedForgotten(ShiftReduceEnv):
    """Ignores the seed."""

    def reset(self, *, seed=None, options=None):
        return super().reset(options=options)


class OutsideTheSpace(Lying):
    def falsify(self, observation, reward, terminated, info):
        if terminated:
            observation["side"] += 2
        return observation, reward, terminated, info


class WrongType(Lying):
    def falsify(self, observation, reward, terminated, info):
        observation["tokens"] = observation["tokens"].astype(np.float64)
        return observation, reward, terminated, info


class ReversedParses(Lying):
    def falsify(self, observation, reward, terminated, info):
        if terminated:
            info["derivations"] = tuple(d[::-1] for d in info["derivations"])
        return observation, reward, terminated, info


class GoldForParses(Lying):
    """Shows the gold parse as what the agent built."""

    def falsify(self, observation, reward, terminated, info):
        if terminated:
            info["parses"] = info["gold_parses"]
        return observation, reward, terminated, info


class GoldOfOthers(Lying):
    def falsify(self, observation, reward, terminated, info):
        if terminated:
            info["gold_parses"] = ("( x y )",) * 2
        return observation, reward, terminated, info


class NoParses(Lying):
    def falsify(self, observation, reward, terminated, info):
        info.pop("parses", None)
        return observation, reward, terminated, info


class NoLengths(Lying):
    def falsify(self, observation, reward, terminated, info):
        info.pop("lengths", None)
        return observation, reward, terminated, info


class NoExample(Lying):
    def falsify(self, observation, reward, terminated, info):
        info.pop("example", None)
        return observation, reward, terminated, info


class StepsOnAfterTheEnd(ShiftReduceEnv):
    def step(self, action):
        try:
            return super().step(action)
        except gymnasium.error.ResetNeeded:
            return self.reset()[0], 0.0, True, False, {}


class WrongErrorAfterTheEnd(ShiftReduceEnv):
    def step(self, action):
        try:
            return super().step(action)
        except gymnasium.error.ResetNeeded:
            raise IndexError("pop from empty list") from None


class ClampsActions(ShiftReduceEnv):
    def step(self, action):
        return super().step(min(max(action, 0), 1))


class IgnoresUnknownOptions(ShiftReduceEnv):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)


class LeftoverCount(ShiftReduceEnv):
    """Remembers an episode that was left in the next one."""

    def reset(self, *, seed=None, options=None):
        left = getattr(self, "_played", None) is not None and not self._situation.parser.is_terminal
        observation, info = super().reset(seed=seed, options=options)
        info["n_illegal_actions"] += int(left and self.corpus is not None)
        return observation, info


class ThreeActions(ShiftReduceEnv):
    def __init__(self):
        super().__init__()
        self.action_space = gymnasium.spaces.Discrete(3)


class ActionsFromOne(ShiftReduceEnv):
    def __init__(self):
        super().__init__()
        self.action_space = gymnasium.spaces.Discrete(2, start=1)


class EqualBounds(ShiftReduceEnv):
    """Announces a component that can never change, which Gymnasium warns of."""

    def __init__(self):
        super().__init__()
        self.observation_space["side"].high[:] = 0


MASKS = "test_masks_follow_the_rule_of_legality"
PLACES = "test_masks_agree_in_all_places"
ILLEGAL = "test_illegal_actions_are_replaced_and_flagged"
LENGTH = "test_episodes_end_after_exactly_2n_minus_1_transitions_a_sentence"
ARRAYS = "test_returned_arrays_are_left_alone"
REWARD = "test_reward_comes_once_at_the_end"
SAME_REWARD = "test_same_parses_earn_the_same_reward"
SEED = "test_same_seed_gives_the_same_episodes"
SPACE = "test_observations_lie_in_the_space"
PARSES = "test_terminal_information_tells_the_parses"
OUTSIDE = "test_stepping_outside_an_episode_is_an_error"
UNKNOWN = "test_unknown_actions_and_options_are_errors"
AFRESH = "test_resetting_in_mid_episode_starts_afresh"
ACTIONS = "test_there_are_two_actions"
CHECKER = "test_gymnasium_finds_nothing_to_complain_about"

STEP = r"step \d+ of \d+ \((any_action|legal_action|wrong_action), seed \d, words \(\d+, \d+\), action [01]\)"

RESET = r"reset \(any_action, seed 0\)"

BROKEN = [
    (
        ReduceAlwaysLegal,
        MASKS,
        RESET + r": info\['action_mask'\] must be \[1, 0\] \(SHIFT, REDUCE\), got \[1, 1\]$",
    ),
    (
        MaskAfterTheEnd,
        MASKS,
        STEP + r": info\['action_mask'\] must be \[0, 0\] \(SHIFT, REDUCE\), got \[1, 1\]$",
    ),
    (
        FloatMask,
        MASKS,
        r"info\['action_mask'\] must be an int8 array \[2\], got array\(\[1., 0.\], dtype=float32\)$",
    ),
    (
        SwappedObservationMask,
        PLACES,
        r"obs\['action_mask'\] must agree with info\['action_mask'\] \[1, 0\], got \[0, 1\]$",
    ),
    (
        LateMasks,
        PLACES,
        STEP
        + r": action_masks\(\) must agree with info\['action_mask'\] \[[01], [01]\], got \[(True|False), ",
    ),
    (
        MissingObservationMask,
        PLACES,
        r"a Dict observation must have 'action_mask', has \['buffer_front', .*\]$",
    ),
    (SilentIllegalActions, ILLEGAL, STEP + r": info\['illegal_action'\] must be True, got False$"),
    (ForgetfulCount, ILLEGAL, STEP + r": info\['n_illegal_actions'\] must be \d, got [01]$"),
    (LyingTransition, ILLEGAL, STEP + r": info\['transition'\] must be [01], got [01]$"),
    (
        IllegalActionsAccepted,
        LENGTH,
        STEP + r": terminated must be True: the episode has sum\(2n - 1\) = \d+ transitions; got False$",
    ),
    (
        EndsEarly,
        LENGTH,
        r"step 1 of \d+ \(.*\): terminated must be False: the episode has sum\(2n - 1\) = \d+ .* got True$",
    ),
    (NeverEnds, LENGTH, STEP + r": terminated must be True: .* got False$"),
    (EndsWithANumber, LENGTH, STEP + r": terminated must be a bool, got np\.False_$"),
    (Truncates, LENGTH, STEP + r": an episode is never truncated, this one was$"),
    (
        SharedArrays,
        ARRAYS,
        STEP
        + r": observation\['tokens'\] shares its memory with what came at "
        + RESET
        + r"; return new arrays$",
    ),
    (
        SharedInfo,
        ARRAYS,
        STEP
        + r": info\['action_mask'\] shares its memory with what came at "
        + RESET
        + r"; return new arrays$",
    ),
    (
        WritesLater,
        ARRAYS,
        RESET + r", changed after it was returned: \[1\]\['label'\] must be '.*', got None$",
    ),
    (RewardAlongTheWay, REWARD, r"step 1 of \d+ \(.*\): a reward before the end must be 0, got 0\.01$"),
    (RewardNotANumber, REWARD, STEP + r": a reward must be a finite float, got nan$"),
    (
        UnexplainedReward,
        REWARD,
        STEP + r": info\['reward_parts'\] must hold the reward 1\.\d+, got \{'gold_f1': [\d.]+\}$",
    ),
    (
        MoodyReward,
        SAME_REWARD,
        r"the same parses of example \d+ must earn the same reward, got 1\.\d+ at first and 2\.\d+ now$",
    ),
    (
        UnseededExamples,
        SEED,
        r"\(any_action, seed 0.*\), against the first run with the same seed: .* must be .*, got ",
    ),
    (
        SeedForgotten,
        SEED,
        r"\(any_action, seed 0.*\), against the first run with the same seed: .* must be .*, got ",
    ),
    (OutsideTheSpace, SPACE, STEP + r": the observation is not in Dict\("),
    (WrongType, SPACE, r"reset \(any_action, seed 0\): the observation is not in Dict\("),
    (
        ReversedParses,
        PARSES,
        STEP + r": info\['derivations'\] must be the transitions taken \(.*\), got \(.*\)$",
    ),
    (GoldForParses, PARSES, STEP + r": info\['parses'\] must have '.*', got '.*'$"),
    (
        GoldOfOthers,
        PARSES,
        STEP + r": info\['gold_parses'\] must be None or a tree over \(.*\), got '\( x y \)'$",
    ),
    (NoParses, PARSES, STEP + r": info must have 'parses' and 'gold_parses' of 2 sentences, got \(\) and \("),
    (
        NoLengths,
        MASKS,
        RESET + r": info\['lengths'\] must be the number of words of each sentence, got None$",
    ),
    (NoExample, MASKS, r"reset \(any_action, seed 0\): info must have 'example', has \[.*\]$"),
    (StepsOnAfterTheEnd, OUTSIDE, r"step before the first reset must raise ResetNeeded, returned \("),
    (
        WrongErrorAfterTheEnd,
        OUTSIDE,
        r"step before .* must raise ResetNeeded, raised IndexError\('pop from empty list'\)$",
    ),
    (ClampsActions, UNKNOWN, r"step\(2\) must raise ValueError, returned \("),
    (IgnoresUnknownOptions, UNKNOWN, r"reset with an unknown option must raise ValueError, returned \("),
    (
        LeftoverCount,
        AFRESH,
        r"reset \(legal_action, seed \d\), after an episode that was left: "
        r"\[1\]\['n_illegal_actions'\] must be 0, got 1$",
    ),
    (ThreeActions, ACTIONS, r"action_space must be Discrete\(2\), got Discrete\(3\)$"),
    (ActionsFromOne, ACTIONS, r"action_space must be Discrete\(2\), got Discrete\(2, start=1\)$"),
    (EqualBounds, CHECKER, r"check_env warns: .*maximum and minimum values are equal"),
]


@pytest.mark.parametrize(
    ("broken", "test", "message"), BROKEN, ids=[f"{b.__name__}-{t}" for b, t, _ in BROKEN]
)
def test_broken_environment_is_noticed(broken, test, message):
    class Contract(EnvironmentContract):
        def make_env(self):
            return broken()

    with pytest.raises(AssertionError, match=message):
        getattr(Contract(), test)()


def test_every_promise_is_broken_by_some_environment():
    promises = {name for name in dir(EnvironmentContract) if name.startswith("test_")}
    assert {test for _, test, _ in BROKEN} == promises


def test_contract_without_pytest():
    check_environment(ShiftReduceEnv)
    with pytest.raises(AssertionError, match="terminated must be True"):
        check_environment(NeverEnds)


def test_contract_without_an_environment():
    with pytest.raises(NotImplementedError, match=r"a contract needs make_env\(\)"):
        EnvironmentContract().make_env()


def test_contract_plays_illegal_actions_and_reaches_the_end():
    contract = TestDefaults()
    episodes = list(contract._episodes())
    assert all(episode.last.terminated for episode in episodes)
    assert sum(episode.referee.n_illegal for episode in episodes) > 20
    taken = {visit.action for episode in episodes for visit in episode.visits[1:]}
    assert taken == set(Transition)
