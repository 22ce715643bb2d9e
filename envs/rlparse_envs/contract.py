"""What every parsing environment promises: a class of tests that play whole episodes beside a referee."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from rlparse.transitions import ParserState, Transition
from rlparse.trees import format_brackets, parse_binary

AnyEnv = gymnasium.Env[Any, Any]
Legality = tuple[bool, bool]
Chooser = Callable[[np.random.Generator, Legality], int]


def any_action(rng: np.random.Generator, legal: Legality) -> int:
    """Choose as an agent does that knows nothing of masks."""
    return int(rng.integers(len(Transition)))


def legal_action(rng: np.random.Generator, legal: Legality) -> int:
    """Choose among the legal actions only."""
    return int(rng.choice(np.flatnonzero(legal)))


def wrong_action(rng: np.random.Generator, legal: Legality) -> int:
    """Choose an illegal action wherever there is one."""
    return any_action(rng, legal) if all(legal) else legal.index(False)


CHOOSERS: tuple[Chooser, ...] = (any_action, legal_action, wrong_action)


class Referee:
    """Follows an episode from outside: what is legal, what an action has to become, when it must end.

    Args:
        lengths: Words of each sentence of the example.
    """

    def __init__(self, lengths: tuple[int, ...]) -> None:
        self.parsers = [ParserState(n) for n in lengths]
        self.n_steps = sum(2 * n - 1 for n in lengths)
        self.n_illegal = 0

    @property
    def legal(self) -> Legality:
        """What may be done now; nothing once all sentences are parsed."""
        running = [parser for parser in self.parsers if not parser.is_terminal]
        return running[0].legal if running else (False, False)

    def apply(self, action: int) -> tuple[int, bool]:
        """Return the transition that the action has to become, and whether it was illegal."""
        illegal = not self.legal[action]
        transition = 1 - action if illegal else action
        next(parser for parser in self.parsers if not parser.is_terminal).apply(transition)
        self.n_illegal += illegal
        return transition, illegal


def replay(episode: Episode) -> Chooser:
    """Choose the transitions of an earlier episode again."""
    transitions = iter([int(t) for parser in episode.referee.parsers for t in parser.transitions])
    return lambda rng, legal: next(transitions)


class Visit(NamedTuple):
    """One answer of the environment beside what the referee expects of it.

    Attributes:
        where: For messages.
        observation: As returned, and possibly changed since by an environment that does not keep its hands
        off. info: Likewise. snapshot: Observation and info copied at once. masks: What ``action_masks()``
        said at that moment. legal: What the referee says is legal then. action: What led here; None for a
        reset. transition: What the action had to become. illegal: Whether it was illegal. n_illegal:
        Illegal actions so far. reward: 0.0 for a reset. terminated: False for a reset. truncated: False for
        a reset.
    """

    where: str
    observation: Any
    info: dict[str, Any]
    snapshot: tuple[Any, dict[str, Any]]
    masks: npt.NDArray[np.bool_]
    legal: Legality
    action: int | None
    transition: int | None
    illegal: bool
    n_illegal: int
    reward: Any
    terminated: Any
    truncated: Any


class Episode(NamedTuple):
    """A whole episode: the reset, every step, and the referee's view of it."""

    visits: list[Visit]
    referee: Referee

    @property
    def last(self) -> Visit:
        """The terminal step."""
        return self.visits[-1]


class EnvironmentContract:
    """Tests that every environment of the parsing game has to pass.

    Subclass it in a test file and say how to make the environment; pytest then runs every ``test_`` method:

        class TestMyEnv(EnvironmentContract):
            def make_env(self):
                return MyEnv()

    `check_environment` runs the same without pytest. Every test plays whole episodes, with legal, illegal and
    random actions, so that termination is always reached. A failure is an AssertionError that tells episode,
    step, what was expected and what came.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    """One episode is played with each seed and each way of choosing actions."""

    def make_env(self) -> AnyEnv:
        """Make a new environment; every call must give one that behaves alike."""
        raise NotImplementedError("a contract needs make_env(), which returns the environment to test")

    def test_there_are_two_actions(self) -> None:
        """The actions are SHIFT and REDUCE."""
        space = self.make_env().action_space
        require(
            isinstance(space, spaces.Discrete) and space.n == 2 and space.start == 0,
            f"action_space must be Discrete(2), got {space}",
        )

    def test_episodes_end_after_exactly_2n_minus_1_transitions_a_sentence(self) -> None:
        """Termination comes with the last transition, neither before nor after it, and is a plain bool."""
        for episode in self._episodes():
            for visit in episode.visits[1:]:
                for name, value in (("terminated", visit.terminated), ("truncated", visit.truncated)):
                    require(isinstance(value, bool), f"{visit.where}: {name} must be a bool, got {value!r}")
                require(not visit.truncated, f"{visit.where}: an episode is never truncated, this one was")

    def test_masks_follow_the_rule_of_legality(self) -> None:
        """SHIFT is legal while there is a buffer, REDUCE while there are two items on the stack."""
        for visit in self._visits():
            mask = visit.snapshot[1].get("action_mask")
            require(
                isinstance(mask, np.ndarray) and mask.shape == (2,) and mask.dtype == np.int8,
                f"{visit.where}: info['action_mask'] must be an int8 array [2], got {mask!r}",
            )
            require(
                tuple(map(bool, np.asarray(mask))) == visit.legal,
                f"{visit.where}: info['action_mask'] must be {_as_mask(visit.legal)} (SHIFT, REDUCE), "
                f"got {np.asarray(mask).tolist()}",
            )

    def test_masks_agree_in_all_places(self) -> None:
        """The mask is the same in info, from action_masks() and, where it is a Dict, in the observation."""
        for visit in self._visits():
            observation, info = visit.snapshot
            mask = np.asarray(info.get("action_mask")).tolist()
            masks = visit.masks
            require(
                masks.shape == (2,) and masks.astype(np.int8).tolist() == mask,
                f"{visit.where}: action_masks() must agree with info['action_mask'] {mask}, "
                f"got {masks.tolist()}",
            )
            if isinstance(observation, dict):
                require(
                    "action_mask" in observation,
                    f"{visit.where}: a Dict observation must have 'action_mask', has {sorted(observation)}",
                )
                seen = observation["action_mask"].tolist()
                require(
                    seen == mask,
                    f"{visit.where}: obs['action_mask'] must agree with info['action_mask'] {mask}, "
                    f"got {seen}",
                )

    def test_illegal_actions_are_replaced_and_flagged(self) -> None:
        """An illegal action becomes the legal one; info says so, counts, and names the transition taken."""
        for visit in self._visits():
            info = visit.snapshot[1]
            require(
                info.get("illegal_action") is visit.illegal,
                f"{visit.where}: info['illegal_action'] must be {visit.illegal}, "
                f"got {info.get('illegal_action')!r}",
            )
            require(
                info.get("n_illegal_actions") == visit.n_illegal,
                f"{visit.where}: info['n_illegal_actions'] must be {visit.n_illegal}, "
                f"got {info.get('n_illegal_actions')!r}",
            )
            require(
                info.get("transition") == visit.transition,
                f"{visit.where}: info['transition'] must be {visit.transition}, "
                f"got {info.get('transition')!r}",
            )

    def test_observations_lie_in_the_space(self) -> None:
        """Every observation, the terminal one too, is one that the space announces."""
        space = self.make_env().observation_space
        for visit in self._visits():
            observation = visit.snapshot[0]
            require(
                space.contains(observation),
                f"{visit.where}: the observation is not in {space}: {observation!r}",
            )

    def test_returned_arrays_are_left_alone(self) -> None:
        """What was returned once is neither changed nor returned again."""
        for episode in self._episodes():
            owners: dict[int, tuple[str, Any]] = {}
            for visit in episode.visits:
                for name, array in arrays_in((visit.observation, visit.info)):
                    where, _ = owners.setdefault(memory_of(array), (visit.where, array))
                    require(
                        where == visit.where,
                        f"{visit.where}: {name} shares its memory with what came at {where}; "
                        f"return new arrays",
                    )
            for visit in episode.visits:
                require_equal(
                    (visit.observation, visit.info),
                    visit.snapshot,
                    f"{visit.where}, changed after it was returned",
                )

    def test_reward_comes_once_at_the_end(self) -> None:
        """Every reward but the last is 0; the last is a finite float, and the parts in info name it."""
        for episode in self._episodes():
            for visit in episode.visits[1:]:
                require(
                    isinstance(visit.reward, float) and math.isfinite(visit.reward),
                    f"{visit.where}: a reward must be a finite float, got {visit.reward!r}",
                )
                require(
                    visit.terminated or visit.reward == 0.0,
                    f"{visit.where}: a reward before the end must be 0, got {visit.reward}",
                )
            last = episode.last
            parts = last.snapshot[1].get("reward_parts")
            require(
                isinstance(parts, dict) and last.reward in parts.values(),
                f"{last.where}: info['reward_parts'] must hold the reward {last.reward}, got {parts!r}",
            )

    def test_same_parses_earn_the_same_reward(self) -> None:
        """Playing the same example to the same trees again gives the same reward."""
        env = self.make_env()
        for seed in self.seeds:
            first = _play(env, any_action, seed, {"seed": seed})
            options = {"example": first.visits[0].info["example"]}
            again = _play(env, replay(first), seed, {"options": options})
            require(
                first.last.reward == again.last.reward,
                f"{again.last.where}: "
                f"the same parses of example {options['example']} must earn the same reward, "
                f"got {first.last.reward} at first and {again.last.reward} now",
            )
        env.close()

    def test_terminal_information_tells_the_parses(self) -> None:
        """Derivations are the transitions taken, parses the same in brackets; gold parses stand beside."""
        for episode in self._episodes():
            where, info = episode.last.where, episode.last.snapshot[1]
            taken = tuple(tuple(map(int, parser.transitions)) for parser in episode.referee.parsers)
            require(
                info.get("derivations") == taken,
                f"{where}: info['derivations'] must be the transitions taken {taken}, "
                f"got {info.get('derivations')!r}",
            )
            parses, gold = info.get("parses", ()), info.get("gold_parses", ())
            require(
                len(parses) == len(gold) == len(taken),
                f"{where}: info must have 'parses' and 'gold_parses' of {len(taken)} sentences, "
                f"got {parses!r} and {gold!r}",
            )
            for derivation, parse, gold_parse in zip(taken, parses, gold, strict=True):
                tokens = parse_binary(parse).tokens
                expected = format_brackets(tokens, derivation)
                require(parse == expected, f"{where}: info['parses'] must have {expected!r}, got {parse!r}")
                require(
                    gold_parse is None or parse_binary(gold_parse).tokens == tokens,
                    f"{where}: info['gold_parses'] must be None or a tree over {tokens}, got {gold_parse!r}",
                )

    def test_same_seed_gives_the_same_episodes(self) -> None:
        """Two environments, or one twice, answer alike after one seed, for three episodes."""
        env = self.make_env()
        for seed in self.seeds:
            runs = []
            for one in (env, env, self.make_env()):
                resets: list[dict[str, Any]] = [{"seed": seed}, {}, {}]
                runs.append([_play(one, any_action, seed, reset) for reset in resets])
            for run in runs[1:]:
                for expected, episode in zip(runs[0], run, strict=True):
                    for before, now in zip(expected.visits, episode.visits, strict=False):
                        require_equal(
                            (now.snapshot, now.reward, now.terminated),
                            (before.snapshot, before.reward, before.terminated),
                            f"{now.where}, against the first run with the same seed",
                        )
        env.close()

    def test_resetting_in_mid_episode_starts_afresh(self) -> None:
        """An episode that is left has no influence on the next."""
        env = self.make_env()
        for seed in self.seeds:
            expected = _play(env, legal_action, seed, {"seed": seed})
            env.reset(seed=seed + 1)
            env.step(int(Transition.SHIFT))
            found = _play(env, legal_action, seed, {"seed": seed})
            for before, now in zip(expected.visits, found.visits, strict=True):
                require_equal(now.snapshot, before.snapshot, f"{now.where}, after an episode that was left")
        env.close()

    def test_stepping_outside_an_episode_is_an_error(self) -> None:
        """Before the first reset and after the end, step raises ResetNeeded."""
        env = self.make_env()
        require_raises(gymnasium.error.ResetNeeded, lambda: env.step(0), "step before the first reset")
        last = _play(env, legal_action, 0, {"seed": 0}).last
        require_raises(gymnasium.error.ResetNeeded, lambda: env.step(0), f"step after {last.where}")
        env.close()

    def test_unknown_actions_and_options_are_errors(self) -> None:
        """An action that is none, or an option that is none, raises ValueError and changes nothing."""
        env = self.make_env()
        require_raises(
            ValueError, lambda: env.reset(options={"no such option": 1}), "reset with an unknown option"
        )
        env.reset(seed=0)
        require_raises(ValueError, lambda: env.step(2), "step(2)")
        require_raises(ValueError, lambda: env.step(-1), "step(-1)")
        env.close()

    def test_gymnasium_finds_nothing_to_complain_about(self) -> None:
        """Gymnasium's own checker passes without a warning."""
        env = self.make_env().unwrapped
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                check_env(env, skip_render_check=env.spec is None)
            except Warning as warning:
                raise AssertionError(f"gymnasium.utils.env_checker.check_env warns: {warning}") from warning

    def _episodes(self) -> Iterator[Episode]:
        """Play with every chooser and seed, in one environment."""
        env = self.make_env()
        for choose in CHOOSERS:
            for seed in self.seeds:
                yield _play(env, choose, seed, {"seed": seed})
        env.close()

    def _visits(self) -> Iterator[Visit]:
        for episode in self._episodes():
            yield from episode.visits


def check_environment(make_env: Callable[[], AnyEnv]) -> None:
    """Run the whole contract on an environment, without pytest.

    Raises:
        AssertionError: The environment breaks a promise; the message tells which, where and how.
    """

    class Given(EnvironmentContract):
        def make_env(self) -> AnyEnv:
            return make_env()

    contract = Given()
    for name in dir(contract):
        if name.startswith("test_"):
            getattr(contract, name)()


def _play(env: AnyEnv, choose: Chooser, seed: int, reset: dict[str, Any]) -> Episode:
    """Play one episode to its end beside the referee.

    Raises:
        AssertionError: It does not end when it must.
    """
    rng = np.random.default_rng(seed)
    masks = env.get_wrapper_attr("action_masks")
    name = f"{choose.__name__.replace('<lambda>', 'replay')}, seed {seed}"
    observation, info = env.reset(**reset)
    where = f"reset ({name})"
    lengths = info.get("lengths")
    require(
        isinstance(lengths, tuple) and all(isinstance(n, int) and n >= 1 for n in lengths),
        f"{where}: info['lengths'] must be the number of words of each sentence, got {lengths!r}",
    )
    require("example" in info, f"{where}: info must have 'example', has {sorted(info)}")
    referee = Referee(info["lengths"])
    snapshot = copy.deepcopy((observation, info))
    legal = np.array(masks())
    visits = [
        Visit(
            where, observation, info, snapshot, legal, referee.legal, None, None, False, 0, 0.0, False, False
        )
    ]
    for step in range(1, referee.n_steps + 1):
        action = choose(rng, referee.legal)
        transition, illegal = referee.apply(action)
        observation, reward, terminated, truncated, info = env.step(action)
        where = f"step {step} of {referee.n_steps} ({name}, words {lengths}, action {action})"
        visits.append(
            Visit(
                where=where,
                observation=observation,
                info=info,
                snapshot=copy.deepcopy((observation, info)),
                masks=np.array(masks()),
                legal=referee.legal,
                action=action,
                transition=transition,
                illegal=illegal,
                n_illegal=referee.n_illegal,
                reward=reward,
                terminated=terminated,
                truncated=truncated,
            )
        )
        last = step == referee.n_steps
        require(
            bool(terminated) == last,
            f"{where}: terminated must be {last}: "
            f"the episode has sum(2n - 1) = {referee.n_steps} transitions; "
            f"got {terminated!r}",
        )
    return Episode(visits, referee)


def require(condition: bool, message: str) -> None:
    """Raise an AssertionError unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def require_raises(expected: type[Exception], call: Callable[[], object], what: str) -> None:
    """Raise unless the call does."""
    try:
        found = call()
    except expected:
        return
    except Exception as error:
        raise AssertionError(f"{what} must raise {expected.__name__}, raised {error!r}") from error
    raise AssertionError(f"{what} must raise {expected.__name__}, returned {found!r}")


def require_equal(found: Any, expected: Any, where: str, *, tolerance: float = 0.0) -> None:
    """Raise unless two nested answers are equal, and name the first entry that is not.

    Args:
        found: Nested dicts, lists, tuples, arrays and plain values.
        expected: Likewise.
        where: For the message.
        tolerance: Floats may differ by so much, absolutely; by default not by a bit.
    """
    difference = _difference(found, expected, "", tolerance)
    require(difference is None, f"{where}: {difference}")


def _difference(found: Any, expected: Any, name: str, tolerance: float) -> str | None:
    """Describe the first difference between two nested values."""
    if type(found) is not type(expected):
        return f"{name or 'value'} must be {expected!r}, got {found!r}"
    if isinstance(expected, dict):
        if found.keys() != expected.keys():
            return f"{name or 'value'} must have {sorted(expected)}, got {sorted(found)}"
        pairs = [(found[key], expected[key], f"{name}[{key!r}]") for key in expected]
    elif isinstance(expected, np.ndarray) and not (found.dtype == expected.dtype == np.object_):
        same = found.dtype == expected.dtype and found.shape == expected.shape
        if same and np.issubdtype(expected.dtype, np.floating):
            same = bool(np.all(np.abs(found - expected) <= tolerance))
        elif same:
            same = np.array_equal(found, expected)
        return None if same else f"{name or 'value'} must be {_shown(expected)}, got {_shown(found)}"
    elif isinstance(expected, (list, tuple, np.ndarray)) and len(found) == len(expected):
        pairs = [(f, e, f"{name}[{i}]") for i, (f, e) in enumerate(zip(found, expected, strict=True))]
    elif isinstance(expected, float):
        return (
            None
            if abs(found - expected) <= tolerance
            else f"{name or 'value'} must be {expected}, got {found}"
        )
    else:
        return None if found == expected else f"{name or 'value'} must be {expected!r}, got {found!r}"
    return next((d for f, e, n in pairs if (d := _difference(f, e, n, tolerance)) is not None), None)


def _shown(array: npt.NDArray[Any]) -> str:
    return f"{array.dtype} {array.shape} {array.tolist()}"


def arrays_in(data: Any, name: str = "") -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Find the arrays of numbers in nested data, with where they are."""
    if isinstance(data, np.ndarray) and data.dtype != np.object_:
        yield name, data
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from arrays_in(value, f"{name}[{key!r}]")
    elif isinstance(data, (list, tuple, np.ndarray)):
        for position, value in enumerate(data):
            part = ("observation", "info")[position] if not name else f"{name}[{position}]"
            yield from arrays_in(value, part)


def memory_of(array: npt.NDArray[Any]) -> int:
    """Address of the first byte; arrays that are kept alive share it only if they share memory."""
    return int(array.__array_interface__["data"][0])


def _as_mask(legal: Legality) -> list[int]:
    return [int(flag) for flag in legal]
