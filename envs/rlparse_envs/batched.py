"""The parsing game for thousands of examples at a time, as a Gymnasium vector environment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate
from torch import Tensor

from rlparse.corpora.corpus import Corpus
from rlparse.transitions import Transition
from rlparse_envs.example_draws import ExampleDraws
from rlparse_envs.game import TYPED, Game, Order, Played, Verdict, parse_texts
from rlparse_envs.observations import FeatureObserver, ObservationName, ObserverFactory, make_observer
from rlparse_envs.parser_rows import BoolArray, IntArray, ParserRows
from rlparse_envs.rewards import GoldF1Reward, Reward, RewardName
from rlparse_envs.row_observers import observe_rows
from rlparse_envs.sentence_table import SentenceTable

if TYPE_CHECKING:
    from rlparse.models.nli_model import NLIModel

Output = Literal["numpy", "torch"]


class ShiftReduceVectorEnv(VectorEnv[Any, Any, Any]):
    """Play `ShiftReduceEnv` with many parsers at once, on arrays, without a loop over them.

    What comes back is what ``gymnasium.vector.SyncVectorEnv`` returns for as many `ShiftReduceEnv`, step for
    step: observations, rewards, ends, and ``infos`` with their ``_key`` masks, under the same seeds and in all
    three autoreset modes. Every array is new at every step; those of one symbolic observation lie side by side in
    one block of memory.

        gymnasium.make_vec("rlparse_envs:rlparse/ShiftReduce-v0", num_envs=4096)

    The rewards of a model are computed for all episodes that end at a step together, so they agree with those
    of single examples to the rounding of its matrix products. Custom observers are asked about one
    parser after the other; "symbolic" and "features" are not.

    Args:
        num_envs: Parsers.
        corpus: As for `ShiftReduceEnv`, like those that follow.
        reward: One of one's own judges all episodes that end together, [B] at once.
        model: For the rewards "accuracy" and "log_likelihood".
        observation: "symbolic", "features" or a callable.
        order: "random" or "sequential"; every parser has its own order.
        max_tokens: The longest sentence that may come.
        autoreset_mode: ``NEXT_STEP`` (the action after an end is ignored and starts the next example), ``SAME_STEP``
            (the end already shows the next example; the last observation and info of the old one are in
            ``infos["final_obs"]`` and ``infos["final_info"]``), or ``DISABLED`` (call ``reset`` with
            ``options={"reset_mask": ended}``); an ``AutoresetMode`` or its value.
        output: "numpy" or "torch": arrays or tensors, for numbers; texts stay numpy arrays of objects.
        device: Of the tensors.
        episode_info: False leaves out of ``infos`` what is written in Python, one episode after the other:
            ``lengths``, ``label``, ``prediction``, ``derivations``, ``parses`` and ``gold_parses``.
        render_mode: None; there is nothing to see of so many.

    Raises:
        ValueError: An argument that `ShiftReduceEnv` does not take, fewer than one parser, an unknown mode or
            output, a device for numpy arrays, or a render mode.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        corpus: Corpus | None = None,
        *,
        reward: RewardName | str | Reward = "gold_f1",
        model: NLIModel | None = None,
        observation: ObservationName | str | ObserverFactory = "symbolic",
        order: Order = "random",
        max_tokens: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        output: Output = "numpy",
        device: torch.device | str | None = None,
        episode_info: bool = True,
        render_mode: None = None,
    ) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, (int, np.integer)) or num_envs < 1:
            raise ValueError(f"num_envs must be a whole number of at least 1, got {num_envs!r}")
        if output not in ("numpy", "torch"):
            raise ValueError(f"output must be numpy or torch, got {output!r}")
        if output == "numpy" and device is not None:
            raise ValueError(f'numpy arrays have no device, got device={device!r}; use output="torch"')
        if render_mode is not None:
            raise ValueError(
                f"a batch of parsers cannot be drawn, got render_mode={render_mode!r}; "
                'draw one ShiftReduceEnv, or make them with vectorization_mode="sync"'
            )
        self.autoreset_mode = _mode(autoreset_mode)
        self.metadata = dict(self.metadata, autoreset_mode=self.autoreset_mode)
        self.num_envs = int(num_envs)
        self.output, self.episode_info = output, episode_info
        self.device = torch.device("cpu" if device is None else device)
        self._on_cpu = self.device.type == "cpu"
        self.game = Game(corpus, reward=reward, model=model, order=order, max_tokens=max_tokens)
        self.corpus, self.model, self.reward = self.game.corpus, self.game.model, self.game.reward
        self.max_tokens = self.game.max_tokens
        self.observer = make_observer(observation, self.game.size, model)
        self.single_observation_space = self.observer.space
        self.single_action_space = spaces.Discrete(len(Transition))
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

        rows, sides = self.num_envs, self.corpus.n_sides
        self._table = SentenceTable(self.corpus, self.game.eligible, self.max_tokens)
        self._labels = np.array(self.corpus.labels, object)
        self._label_indices = self.corpus.label_indices
        self._typed: list[Played] = []  # numbered from the end of the corpus on
        self._draws = ExampleDraws(rows, self.game.eligible, order)
        self._parsers = ParserRows(rows, self.max_tokens, heights=isinstance(self.observer, FeatureObserver))
        self._view = observe_rows(self.observer, self._parsers, self._table)
        self._started: BoolArray = np.zeros(rows, np.bool_)
        self._over: BoolArray = np.zeros(rows, np.bool_)  # ended, and not started again yet
        self._stuck: IntArray = np.zeros(0, np.int64)  # rows that a step which raised left at an end
        self._example: IntArray = np.zeros(rows, np.int64)
        self._n_illegal: IntArray = np.zeros(rows, np.int64)
        self._gold_at: IntArray = np.zeros(rows, np.int64)  # where each sentence stands in the table
        self._matched: IntArray = np.zeros(rows, np.int64)  # spans of the gold tree so far
        self._matched_before: IntArray = np.zeros((sides, rows), np.int64)
        # Spans are matched as they are built, so that this reward alone needs no derivations.
        self._counts_spans = type(self.reward) is GoldF1Reward and self.model is None
        self._keep_derivations = episode_info or not self._counts_spans
        self._derived: npt.NDArray[np.int8] = np.zeros((sides, rows, 2 * self.max_tokens - 1), np.int8)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Start an example in every parser, or in those of ``options["reset_mask"]`` ([num_envs] bool).

        Args:
            seed: One for each parser, or the first of consecutive ones.
            options: As for `ShiftReduceEnv`, for all parsers alike, and ``reset_mask``.

        Raises:
            ValueError: Bad options, or not as many seeds as parsers.
            IndexError: No such example in the corpus.
            MalformedTreeError: A typed sentence begins with a bracket but is not a binary tree.
            gymnasium.error.ResetNeeded: The first reset leaves some parsers out.
        """
        others = dict(options or {})
        rows = self._chosen(others.pop("reset_mask", None))
        seeds = self._seeds(seed)
        played = self.game.asked_for(others)
        self._draws.seed(rows, [seeds[row] for row in rows.tolist()])
        self._example[rows] = self._draws.next(rows) if played is None else self._number(played, rows)
        self._started[rows], self._over[rows] = True, False
        self._stuck = np.setdiff1d(self._stuck, rows)
        self._n_illegal[rows] = 0
        self._begin(rows, np.zeros(len(rows), np.int64))
        infos: dict[str, Any] = {}
        self._tell(
            infos,
            rows,
            action_mask=self._parsers.fields["action_mask"][rows],
            illegal_action=np.zeros(len(rows), np.bool_),
            n_illegal_actions=self._n_illegal[rows],
        )
        self._tell_example(infos, rows)
        return self._export(self._view.observe()), self._export(infos)

    def _chosen(self, mask: Any) -> IntArray:
        """Rows to reset."""
        if mask is None:
            return np.arange(self.num_envs)
        found = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else mask
        if not isinstance(found, np.ndarray) or found.shape != (self.num_envs,) or found.dtype != np.bool_:
            described = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else repr(found)
            raise ValueError(
                f"reset option 'reset_mask' must be bool ({self.num_envs},), one for each parser, got {described}"
            )
        if not found.any():
            raise ValueError("reset option 'reset_mask' must choose at least one parser, got none")
        waiting = ~(self._started | found)
        if waiting.any():
            raise gymnasium.error.ResetNeeded(
                f"the first reset() must start every parser, this one leaves out {_shown(waiting)}"
            )
        return np.flatnonzero(found)

    def _seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + row for row in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"seeds must be one for each of {self.num_envs} parsers, got {len(seed)}")
        return seed

    def _number(self, played: Played, rows: IntArray) -> int:
        """Give an example the number that rows know it by; typed ones come after the corpus."""
        if played.position != TYPED:
            return played.position
        others = np.delete(self._example, rows)
        if self._typed and not (others >= len(self.corpus)).any():
            self._typed = []
            self._table.forget_typed()
        self._typed.append(played)
        return self._table.add_typed(played.sentences)

    def _begin(self, rows: IntArray, sides: IntArray) -> None:
        """Start one sentence of the rows' examples."""
        numbers = self._example[rows] * self._table.n_sides + sides
        self._parsers.start(rows, self._table.token_rows(numbers), self._table.lengths[numbers], sides)
        self._view.start(rows, numbers)
        self._gold_at[rows] = self._table.starts[numbers]
        self._matched[rows] = 0

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take one transition in every parser; see `ShiftReduceEnv.step` for what comes back.

        Args:
            actions: [num_envs] integers, 0 (SHIFT) or 1 (REDUCE): array, tensor or list.

        Returns:
            Observations, rewards ([num_envs] float64), terminated and truncated ([num_envs] bool), infos.

        Raises:
            gymnasium.error.ResetNeeded: Before the first ``reset``, or, without autoreset, after an end; in every
                mode after a step in which the reward raised, until the parsers that it left at the end of a
                sentence are reset.
            ValueError: Actions of another shape or type, or other than 0 and 1.
        """
        if not self._started.all():
            raise gymnasium.error.ResetNeeded("step needs examples to parse: call reset() first")
        chosen = self._checked(actions)
        if len(self._stuck):
            raise gymnasium.error.ResetNeeded(
                f"the last step raised and left parsers {_shown(np.isin(np.arange(self.num_envs), self._stuck))} "
                "at the end of a sentence: call reset() before step()"
            )
        over = np.flatnonzero(self._over)
        if len(over) and self.autoreset_mode == AutoresetMode.DISABLED:
            raise gymnasium.error.ResetNeeded(
                f"the episodes of parsers {_shown(self._over)} have ended: "
                "call reset(options={'reset_mask': ended}) before step()"
            )
        parsers = self._parsers
        illegal, reduced, starts = parsers.advance(chosen, over)
        self._n_illegal += illegal
        self._match(reduced, starts)
        finished = np.flatnonzero(~(parsers.may_shift | parsers.may_reduce))
        sides = parsers.sides[finished]
        self._matched_before[sides, finished] = self._matched[finished]
        if self._keep_derivations:
            self._derived[sides, finished] = parsers.histories(finished)
        last = sides == self._table.n_sides - 1
        ended, going = finished[last], finished[~last]

        rewards = np.zeros(self.num_envs)
        terminated = np.zeros(self.num_envs, np.bool_)
        infos: dict[str, Any] = {}
        same_step = self.autoreset_mode == AutoresetMode.SAME_STEP
        if len(ended):
            # Whatever raises until they have been judged and started again leaves these rows without a next step.
            self._stuck = np.concatenate((finished, over))
            terminated[ended] = True
            final = infos
            if same_step:
                final = {}
                seen = self._split(self._view.observe(ended), len(ended))
                self._tell(infos, ended, final_obs=self._objects(seen))
                self._tell(
                    final,
                    ended,
                    action_mask=parsers.fields["action_mask"][ended],
                    illegal_action=illegal[ended],
                    n_illegal_actions=self._n_illegal[ended],
                    transition=reduced[ended].astype(np.int64),
                )
                infos["final_info"], infos["_final_info"] = final, terminated.copy()
            rewards[ended] = self._judge(ended, final)
        fresh = ended if same_step else over
        if len(fresh):
            self._example[fresh] = self._draws.next(fresh)
            self._n_illegal[fresh] = 0
            illegal[fresh] = False
        if len(going) or len(fresh):
            begun = np.concatenate((sides[~last] + 1, np.zeros(len(fresh), np.int64)))
            self._begin(np.concatenate((going, fresh)), begun)
        if not same_step:
            self._over = terminated.copy()
        if len(ended):
            self._stuck = self._stuck[:0]

        everywhere = np.ones(self.num_envs, np.bool_)
        infos |= {
            "action_mask": parsers.fields["action_mask"].copy(),
            "_action_mask": everywhere,
            "illegal_action": illegal,
            "_illegal_action": everywhere.copy(),
            "n_illegal_actions": self._n_illegal.copy(),
            "_n_illegal_actions": everywhere.copy(),
        }
        if len(fresh) < self.num_envs:
            transition, stepped = reduced.astype(np.int64), everywhere.copy()
            transition[fresh], stepped[fresh] = 0, False
            infos |= {"transition": transition, "_transition": stepped}
        if len(fresh):
            self._tell_example(infos, fresh)
        truncated = np.zeros(self.num_envs, np.bool_)
        outcome = (self._view.observe(), rewards, terminated, truncated, infos)
        observation, rewards, terminated, truncated, infos = map(self._export, outcome)
        return observation, rewards, terminated, truncated, infos

    def _checked(self, actions: Any) -> npt.NDArray[np.integer[Any]]:
        """Take the actions as an array of 0 and 1."""
        chosen = actions.detach().cpu().numpy() if isinstance(actions, Tensor) else np.asarray(actions)
        if chosen.shape != (self.num_envs,) or chosen.dtype.kind not in "iu":
            raise ValueError(
                f"actions must be integers ({self.num_envs},), one for each parser, got {chosen.dtype} "
                f"{chosen.shape}"
            )
        wrong = (chosen | 1) != 1
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(f"actions must be 0 (SHIFT) or 1 (REDUCE), got {chosen[row]} for parser {row}")
        return chosen

    def _match(self, reduced: BoolArray, starts: IntArray) -> None:
        """Count the spans that were built at this step and are in the gold tree."""
        rows = np.flatnonzero(reduced)
        start, end = starts[rows], self._parsers.fronts[rows]
        first = self._gold_at[rows]
        left, right = first + start, first + end
        known = self._table.widest[2 * left + 1] == end
        known |= self._table.widest[2 * right - 2] == start
        self._matched[rows] += known

    def _judge(self, ended: IntArray, infos: dict[str, Any]) -> npt.NDArray[np.float64]:
        """Give the episodes that end their rewards, and tell what they are made of."""
        sides = np.arange(self._table.n_sides)[:, None]
        numbers = self._example[ended] * len(sides) + sides  # [S, k]
        counts = (self._matched_before[:, ended], self._table.lengths[numbers])
        if self._counts_spans:
            assert isinstance(self.reward, GoldF1Reward)
            earned = _f1(*counts, root=self.reward.convention.root)
            judged = [(np.arange(len(ended)), Verdict(earned, {}, None, earned == 1.0))]
        else:
            judged = list(self._ask(ended))
        nested: dict[str, Any] = {}
        if self.game.reward_name != "gold_f1":
            with_gold = self._table.has_gold[numbers].all(axis=0)
            if with_gold.any():
                self._tell(nested, ended[with_gold], gold_f1=_f1(*counts, root=True)[with_gold])
        rewards = np.zeros(len(ended))
        for members, verdict in judged:
            rewards[members], rows = verdict.rewards, ended[members]
            self._tell(nested, rows, **(verdict.model_parts | {self.game.reward_name: verdict.rewards}))
            if verdict.successes is not None:
                self._tell(infos, rows, is_success=verdict.successes)
            if verdict.predictions is not None and self.episode_info:
                self._tell(infos, rows, prediction=self._labels[verdict.predictions])
        here = np.zeros(self.num_envs, np.bool_)
        here[ended] = True
        infos["reward_parts"], infos["_reward_parts"] = nested, here
        self._tell_example(infos, ended)
        if self.episode_info:
            texts = [self._texts(row) for row in ended.tolist()]
            columns = {key: self._objects(text[key] for text in texts) for key in texts[0]}
            self._tell(infos, ended, **columns)
        return rewards

    def _ask(self, ended: IntArray) -> Iterator[tuple[IntArray, Verdict]]:
        """Let the reward judge episodes: those of the corpus together, and those of each typed example.

        Gives which of the episodes, and what was found.
        """
        examples = self._example[ended]
        groups = np.maximum(examples, len(self.corpus) - 1)  # one number for all of the corpus
        for group in np.unique(groups).tolist():
            members = np.flatnonzero(groups == group)
            labelled = True
            if group < len(self.corpus):
                batch = self.corpus.batch(examples[members])
            else:
                typed = self._typed[group - len(self.corpus)]
                batch, labelled = typed.batch.repeat(len(members)), typed.label is not None
            derived = self._derived[:, ended[members], : 2 * batch.tokens.shape[1] - 1]
            transitions = torch.from_numpy(derived.reshape(-1, derived.shape[2]).astype(np.int64))
            yield members, self.game.judge(batch, transitions, labelled=labelled)

    def _texts(self, row: int) -> dict[str, Any]:
        """Write what one parser built."""
        example = int(self._example[row])
        if example < len(self.corpus):
            sentences = self.corpus.example(example).sentences
        else:
            sentences = self._typed[example - len(self.corpus)].sentences
        derivations = tuple(
            tuple(self._derived[side, row, : 2 * len(sentence.tokens) - 1].tolist())
            for side, sentence in enumerate(sentences)
        )
        return parse_texts(sentences, derivations)

    def _tell_example(self, infos: dict[str, Any], rows: IntArray) -> None:
        """Tell what is played in some rows."""
        examples = self._example[rows]
        typed = examples >= len(self.corpus)
        self._tell(infos, rows, example=np.where(typed, TYPED, examples))
        if not self.episode_info:
            return
        sides = self._table.n_sides
        lengths = self._table.lengths[examples[:, None] * sides + np.arange(sides)]
        labels = self._labels[self._label_indices[np.where(typed, 0, examples)]]
        for place in np.flatnonzero(typed).tolist():
            labels[place] = self._typed[examples[place] - len(self.corpus)].label
        self._tell(infos, rows, lengths=self._objects(map(tuple, lengths.tolist())), label=labels)

    def _tell(self, infos: dict[str, Any], rows: IntArray, **columns: npt.NDArray[Any]) -> None:
        """Write values of some rows into ``infos``, with their masks, as Gymnasium's vector environments do."""
        for key, values in columns.items():
            if key not in infos:
                infos[key] = np.zeros((self.num_envs, *values.shape[1:]), values.dtype)
                if values.dtype.kind == "O":
                    infos[key][:] = None
                infos[f"_{key}"] = np.zeros(self.num_envs, np.bool_)
            infos[key][rows] = values
            infos[f"_{key}"][rows] = True

    @staticmethod
    def _objects(values: Iterable[Any]) -> npt.NDArray[Any]:
        """Make an array of objects that numpy would otherwise take apart."""
        return np.fromiter(values, np.object_)

    def _split(self, observations: Any, count: int) -> Iterable[Any]:
        """Take a batch of observations apart."""
        if isinstance(observations, dict):
            columns = self._export(observations)
            return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        if isinstance(observations, np.ndarray):
            return list(self._export(observations))
        return map(self._export, iterate(batch_space(self.single_observation_space, count), observations))

    def _export(self, data: Any) -> Any:
        """Turn arrays of numbers into what the caller asked for."""
        if self.output == "numpy":
            return data
        if isinstance(data, np.ndarray):
            if data.dtype.kind == "O":
                return data
            tensor = torch.from_numpy(data)
            return tensor if self._on_cpu else tensor.to(self.device)
        if isinstance(data, dict):
            return {key: self._export(value) for key, value in data.items()}
        return tuple(map(self._export, data)) if isinstance(data, tuple) else data

    def action_masks(self) -> Any:
        """Tell which actions are legal now, [num_envs, 2] bool."""
        if not self._started.all():
            raise gymnasium.error.ResetNeeded("there are no legal actions before the first reset()")
        return self._export(self._parsers.fields["action_mask"].astype(np.bool_))

    @property  # type: ignore[misc]  # not to be set; SyncVectorEnv gives a tuple too
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """Generators of the parsers; examples are drawn from them some episodes ahead."""
        return tuple(self._draws.generator(row)[0] for row in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """Seeds of the parsers."""
        return tuple(self._draws.generator(row)[1] for row in range(self.num_envs))


def _mode(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError:
        known = ", ".join(repr(known.value) for known in AutoresetMode)
        raise ValueError(f"autoreset_mode must be an AutoresetMode or one of {known}, got {mode!r}") from None


def _shown(rows: BoolArray) -> str:
    """Name the rows of a mask, the first few of many."""
    found = np.flatnonzero(rows).tolist()
    return ", ".join(map(str, found[:5])) + (f" and {len(found) - 5} more" if len(found) > 5 else "")


def _f1(matched: IntArray, lengths: IntArray, *, root: bool) -> npt.NDArray[np.float64]:
    """Turn counts of shared spans into the mean F1 of each example, in float32 as `GoldF1Reward` computes it.

    Args:
        matched: [S, k] spans that are in the gold tree too.
        lengths: [S, k] words; a tree over n has n - 1 spans.
        root: Count the span of the whole sentence, which is always among the matched.
    """
    spans = lengths - 1
    if not root:
        matched, spans = matched - 1, spans - 1
    shares = np.maximum(matched, 0).astype(np.float32) / np.maximum(spans, 1).astype(np.float32)
    shares[spans < 1] = 1.0
    means: npt.NDArray[np.float64] = (shares.sum(axis=0) / np.float32(len(shares))).astype(np.float64)
    return means
