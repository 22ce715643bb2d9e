"""What happens beside learning: F1 curves, dev evaluation, sample trees, checkpoints, progress bar, stopping."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from rlparse.corpora.corpus import Corpus
from rlparse_agents.policy_gradient import Iteration, PolicyGradient
from rlparse_envs.rewards import balanced_trees, bracketing_f1, left_branching, right_branching
from rlparse_experiments.evaluate import Measured, ParseTable, measure, score_table
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

    Runs one iteration before the logger is dumped, on that iteration's parses.
    """

    def _on_step(self) -> bool:
        if (self.agent.n_iterations + 1) % self.agent.log_interval == 0:
            batch, transitions = self.last.batch, self.last.transitions
            n_steps = transitions.shape[1]
            record = self.logger.record
            for name, build in (
                ("left", left_branching),
                ("right", right_branching),
                ("balanced", balanced_trees),
            ):
                f1 = bracketing_f1(transitions, build(batch.lengths, n_steps))
                record(f"rollout/f1_{name}_nyu", float(f1.mean()))
            parsed = batch.has_gold
            if bool(parsed.any()):
                f1 = bracketing_f1(transitions[parsed], batch.gold[parsed])
                record("rollout/f1_gold_nyu", float(f1.mean()))
        return True


class DevEvaluation(TrainingCallback):
    """Measure on dev at intervals and at the end.

    Args:
        corpus: The dev set.
        interval: Iterations between two measurements.
        n_samples: Sentences whose trees are written as text.
        seed: Of random trees.
    """

    def __init__(self, corpus: Corpus, interval: int, *, n_samples: int, seed: int) -> None:
        super().__init__()
        self.corpus = corpus
        self.interval = interval
        self.n_samples = n_samples
        self.seed = seed
        self.history: list[dict[str, float]] = []
        self.latest: tuple[Measured, ParseTable] | None = None

    def _on_step(self) -> bool:
        if self.due(self.interval):
            self.evaluate()
        return True

    def evaluate(self) -> tuple[Measured, ParseTable]:
        """Measure now, record the figures and keep them in ``history``."""
        agent = self.agent
        assert agent.model is not None
        measured = measure(agent.model, agent.policy, self.corpus, seed=self.seed)
        table = score_table(self.corpus, measured.derivations, seed=self.seed)
        values = {
            "eval/accuracy": measured.accuracy,
            "eval/cross_entropy": measured.cross_entropy,
            "eval/depth": table.depth["learned"],
        }
        for convention, f1 in table.against_gold.get("learned", {}).items():
            values[f"eval/f1_gold_{convention}"] = f1
        for tree, name in (("left", "left"), ("right", "right"), ("balanced_ceil", "balanced")):
            values[f"eval/f1_{name}_nyu"] = table.agreement[tree]["nyu"]
        for tag, value in values.items():
            self.logger.record(tag, value)
        if self.n_samples:
            self.logger.record(
                "samples/dev_trees", tree_samples(self.corpus, measured.derivations, self.n_samples)
            )
        self.history.append({"iteration": agent.n_iterations, "step": agent.num_timesteps, **values})
        self.latest = (measured, table)
        return self.latest


class Checkpoints(TrainingCallback):
    """Save at intervals.

    Args:
        save: Writes one checkpoint of the agent.
        interval: Iterations between two checkpoints.
    """

    def __init__(self, save: Callable[[], None], interval: int) -> None:
        super().__init__()
        self.save = save
        self.interval = interval

    def _on_step(self) -> bool:
        if self.due(self.interval):
            self.save()
        return True


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

    def _on_step(self) -> bool:
        return self.received is None


class ProgressBar(TrainingCallback):
    """Show a bar of iterations with reward, accuracy, F1 against gold, and the time left.

    Args:
        total: Iterations of the whole run.
        dev: Whose latest figures are shown.
        shown: False shows nothing.
    """

    def __init__(self, total: int, dev: DevEvaluation, *, shown: bool) -> None:
        super().__init__()
        self.total = total
        self.dev = dev
        self.shown = shown
        self._bar: tqdm[Any] | None = None
        self._reward = 0.0
        self._drawn = 0.0

    def _on_training_start(self) -> None:
        if self.shown:
            self._bar = tqdm(
                total=self.total,
                initial=self.agent.n_iterations,
                unit="it",
                dynamic_ncols=True,
                smoothing=0.05,
            )
            self._reward = float("nan")

    def _on_step(self) -> bool:
        if self._bar is None:
            return True
        reward = float(self.last.rewards.mean())
        first = self._reward != self._reward
        self._reward = reward if first else 0.98 * self._reward + 0.02 * reward
        self._bar.update(1)
        if time.monotonic() - self._drawn > 0.5:
            self._drawn = time.monotonic()
            shown = {"reward": f"{self._reward:.3f}"}
            if self.dev.latest is not None:
                measured, table = self.dev.latest
                shown["dev acc"] = f"{100 * measured.accuracy:.1f}"
                if "learned" in table.against_gold:
                    shown["F1(nyu)"] = f"{100 * table.against_gold['learned']['nyu']:.1f}"
            self._bar.set_postfix(shown, refresh=False)
        return True

    def _on_training_end(self) -> None:
        if self._bar is not None:
            self._bar.close()
