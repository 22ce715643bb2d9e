"""What happens beside learning: F1 curves, dev evaluation, sample trees, checkpoints, progress, stopping."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from rlparse.batched_trees import BRANCHINGS, bracketing_f1
from rlparse.corpora.corpus import Corpus
from rlparse.models.nli_model import NLIModel
from rlparse_agents.iteration import Iteration
from rlparse_agents.parsing_policy import ParsingPolicy
from rlparse_agents.policy_gradient import PolicyGradient
from rlparse_experiments.curves import write_point
from rlparse_experiments.evaluate import Measured, ParseScorer, ParseTable, measure
from rlparse_experiments.report.trees import tree_samples


class TrainingCallback(BaseCallback):
    """A callback that knows the native agent."""

    @property
    def agent(self) -> PolicyGradient:
        """The agent being trained."""
        assert isinstance(self.model, PolicyGradient)
        return self.model

    @property
    def last(self) -> Iteration:
        """What the last iteration did."""
        assert self.agent.last_iteration is not None
        return self.agent.last_iteration

    def due(self, interval: int) -> bool:
        """Tell whether this iteration is a multiple of ``interval``."""
        return self.agent.n_iterations % interval == 0

    def _on_step(self) -> bool:
        return True


class BracketingSummary(TrainingCallback):
    """Record F1 of the sampled parses against gold (where there is any) and trivial trees, under ``nyu``.

    Only of the iterations at which a point of the curves is drawn: an estimate from one batch. An encoder that reads no
    trees has none to score.

    Args:
        last: Iteration that ends the run, which draws a point too.
    """

    def __init__(self, last: int) -> None:
        super().__init__()
        self.at_end = last

    def _on_step(self) -> bool:
        assert self.agent.model is not None
        if not self.agent.model.reads_trees:
            return True
        if self.due(self.agent.log_interval) or self.agent.n_iterations == self.at_end:
            batch, transitions = self.last.batch, self.last.transitions
            n_steps = transitions.shape[1]
            record = self.logger.record
            for name, build in BRANCHINGS.items():
                f1 = bracketing_f1(transitions, build(batch.lengths, n_steps))
                record(f"rollout/f1_{name}_nyu", float(f1.mean()))
            parsed = batch.has_gold
            if bool(parsed.any()):
                f1 = bracketing_f1(transitions[parsed], batch.gold[parsed])
                record("rollout/f1_gold_nyu", float(f1.mean()))
        return True


class DevEvaluation(TrainingCallback):
    """Measure on dev at intervals and at the end; the figures are a point of the curves of their own.

    Args:
        corpus: The dev set.
        interval: Iterations between two measurements.
        n_samples: Sentences whose trees are written as text.
        seed: Of random trees.
        more: Gives further figures of an evaluation by their tags, from the policy and what was measured.
    """

    def __init__(
        self,
        corpus: Corpus,
        interval: int,
        *,
        n_samples: int,
        seed: int,
        more: Callable[[ParsingPolicy, Measured], dict[str, float]] | None = None,
    ) -> None:
        super().__init__()
        self.corpus = corpus
        self.interval = interval
        self.n_samples = n_samples
        self.seed = seed
        self.more = more
        self.scorer = ParseScorer(corpus, seed=seed)
        self.history: list[dict[str, float]] = []
        self.latest: tuple[Measured, ParseTable | None] | None = None

    def _on_step(self) -> bool:
        if self.due(self.interval):
            self.evaluate()
        return True

    @property
    def is_current(self) -> bool:
        """Tell whether the weights as they are have been measured and recorded."""
        return bool(self.history) and self.history[-1]["iteration"] == self.agent.n_iterations

    def evaluate(self, model: NLIModel | None = None) -> tuple[Measured, ParseTable | None]:
        """Measure now; record the figures and keep them in ``history``, if that was not done at this iteration.

        Args:
            model: The classifier; None takes the one that rewards parses now.
        """
        agent = self.agent
        model = model or agent.rewarder
        assert model is not None
        further: dict[str, float] = {}
        with agent.evaluated_policy() as policy:
            measured = measure(model, policy, self.corpus, seed=self.seed)
            if self.more is not None and not self.is_current:
                further = self.more(policy, measured)
        derivations = measured.derivations
        table = None if derivations is None else self.scorer.table(derivations)
        self.latest = (measured, table)
        if not self.is_current:
            values = evaluation_metrics(measured, table) | further
            samples: dict[str, float | str] = {}
            if self.n_samples and derivations is not None:
                samples["samples/dev_trees"] = tree_samples(self.corpus, derivations, self.n_samples)
            write_point(self.logger, {**values, **samples}, agent.num_timesteps)
            self.history.append({"iteration": agent.n_iterations, "step": agent.num_timesteps, **values})
        return self.latest


def evaluation_metrics(measured: Measured, table: ParseTable | None) -> dict[str, float]:
    """Give the figures of an evaluation by their tags; ``table`` is None where no trees are read."""
    values = {"eval/accuracy": measured.accuracy, "eval/cross_entropy": measured.cross_entropy}
    if table is None:
        return values
    values["eval/depth"] = table.depth["learned"]
    for convention, f1 in table.against_gold.get("learned", {}).items():
        values[f"eval/f1_gold_{convention}"] = f1
    for tree, name in (("left", "left"), ("right", "right"), ("balanced_floor", "balanced")):
        values[f"eval/f1_{name}_nyu"] = table.agreement[tree]["nyu"]
    return values


class Checkpoints(TrainingCallback):
    """Save at intervals, after everything that belongs to the iteration has been written.

    Args:
        save: Writes one checkpoint of the agent.
        interval: Iterations between two checkpoints.
        last: Iteration that ends the run: it still has figures to write and is saved after them.
    """

    def __init__(self, save: Callable[[], None], interval: int, last: int) -> None:
        super().__init__()
        self.save = save
        self.interval = interval
        self.at_end = last

    def _on_rollout_end(self) -> None:
        if self.due(self.interval) and self.agent.n_iterations < self.at_end:
            self.save()


class Interrupt(TrainingCallback):
    """Turn SIGINT and SIGTERM into a stop between two iterations; a second signal stops at once.

    ``received`` is the signal's number, or None.
    """

    def __init__(self) -> None:
        super().__init__()
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        """Catch the signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *args: object) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, self._before[number])
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"\nstopping after this iteration; once more stops at once\n")

    def _on_step(self) -> bool:
        return self.received is None


class Progress(TrainingCallback):
    """Show how far training is: a bar on a terminal, elsewhere a line at every evaluation; both on stderr.

    Args:
        total: Iterations of the whole run.
        dev: Whose latest figures are shown; stands before this in the list of callbacks.
        shown: False shows nothing.
    """

    def __init__(self, total: int, dev: DevEvaluation, *, shown: bool) -> None:
        super().__init__()
        self.total = total
        self.dev = dev
        self.shown = shown
        self._bar: tqdm[Any] | None = None
        self._reward: float | None = None
        self._drawn = 0.0
        self._began = (0, 0.0)

    def _on_training_start(self) -> None:
        self._began = (self.agent.n_iterations, time.monotonic())
        if self.shown and sys.stderr.isatty():
            self._bar = tqdm(
                total=self.total,
                initial=self.agent.n_iterations,
                unit="it",
                dynamic_ncols=True,
                smoothing=0.05,
            )

    def _on_step(self) -> bool:
        if not self.shown:
            return True
        reward = float(self.last.rewards.mean())
        self._reward = reward if self._reward is None else 0.98 * self._reward + 0.02 * reward
        if self._bar is not None:
            self._bar.update(1)
            if time.monotonic() - self._drawn > 0.5:
                self._drawn = time.monotonic()
                self._bar.set_postfix_str("  ".join(self._figures()), refresh=False)
        elif self.dev.is_current:
            iteration = self.agent.n_iterations
            figures = [f"iteration {iteration:,}/{self.total:,}", *self._figures()]
            if iteration < self.total:
                figures.append(f"{self._time_left()} left")
            print("  ".join(figures), file=sys.stderr, flush=True)
        return True

    def _on_training_end(self) -> None:
        if self._bar is not None:
            if self._reward is not None:
                self._bar.set_postfix_str("  ".join(self._figures()))
            self._bar.close()

    def _figures(self) -> list[str]:
        figures = [f"reward {self._reward:.3f}"]
        if self.dev.latest is not None:
            measured, table = self.dev.latest
            figures.append(f"dev accuracy {100 * measured.accuracy:.1f}")
            if table is not None and "learned" in table.against_gold:
                figures.append(f"F1 nyu {100 * table.against_gold['learned']['nyu']:.1f}")
        return figures

    def _time_left(self) -> str:
        first, began = self._began
        done = self.agent.n_iterations - first
        seconds = (time.monotonic() - began) / done * (self.total - self.agent.n_iterations)
        if seconds < 90:
            return f"{seconds:.0f} s"
        return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
