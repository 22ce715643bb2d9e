"""Train, checkpoint, continue: ``rlparse train``."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import resource
import shlex
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3
import torch
from rich.console import Console
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import HParam

import rlparse
from rlparse.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, write_json
from rlparse.errors import CheckpointError, ConfigError, NonFiniteLossError
from rlparse.models.nli_model import resolve_device
from rlparse_agents.policy_gradient import PolicyGradient
from rlparse_experiments.assembly import Corpora, load_weights, make_agent, make_corpora
from rlparse_experiments.callbacks import (
    BracketingSummary,
    Checkpoints,
    DevEvaluation,
    Interrupt,
    Progress,
)
from rlparse_experiments.config import TrainConfig
from rlparse_experiments.curves import curves, sync
from rlparse_experiments.diagnosis.callback import Diagnosis
from rlparse_experiments.evaluate import parse_records, prediction_records
from rlparse_experiments.evaluation_folder import Evaluation, evaluate, write_evaluation
from rlparse_experiments.parse_files import write_parses
from rlparse_experiments.precision import matmul_precision
from rlparse_experiments.prediction_files import predictions_of, write_predictions
from rlparse_experiments.report.plots import plot_run
from rlparse_experiments.report.tables import console, print_training_results
from rlparse_experiments.run_folder import RunFolder, new_run, settings_record, task_of


class Training:
    """One run between its folder and its agent: what a checkpoint holds and what continuing restores.

    Args:
        config: Every setting.
        folder: The run's folder.
        corpora: What it learns from.
        agent: What learns, as it is at the beginning.
        checkpoint: Where to go on from, or None to begin.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        corpora: Corpora,
        agent: PolicyGradient,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.config = config
        self.folder = folder
        self.corpora = corpora
        self.agent = agent
        self.logger = curves(
            folder.path,
            folder.metrics_file,
            resumed_at=None if checkpoint is None else int(checkpoint.facts["num_timesteps"]),
        )
        self.agent.set_logger(self.logger)
        per_epoch = math.ceil(len(corpora.train) / config.agent.batch_size)
        self.total_iterations = max(1, math.ceil(config.agent.epochs * per_epoch))
        interval = config.run.eval_interval or per_epoch
        self.diagnosis: Diagnosis | None = None
        if config.run.diagnose:
            self.diagnosis = Diagnosis(corpora.dev, interval, self.total_iterations)
        self.dev = DevEvaluation(
            corpora.dev,
            interval,
            n_samples=config.run.sample_trees,
            seed=config.seed,
            more=None if self.diagnosis is None else self.diagnosis.curves,
        )
        self.seconds_before = 0.0
        self.peak_before = 0.0
        self._saved_at: int | None = None
        self._started = time.monotonic()
        if checkpoint is not None:
            self._restore(checkpoint)

    @property
    def seconds(self) -> float:
        """Wall time of training so far, over all its continuations."""
        return self.seconds_before + time.monotonic() - self._started

    def save(self) -> None:
        """Write a checkpoint of everything that continuing needs, unless there is one of this iteration."""
        agent = self.agent
        assert agent.model is not None
        if self._saved_at == agent.n_iterations:
            return
        sync(self.logger)
        states: dict[str, Any] = {
            "generator": agent.generator.get_state(),
            "torch": torch.get_rng_state(),
            "learning": agent.learning_state(),
        }
        if torch.cuda.is_available():
            states["cuda"] = torch.cuda.get_rng_state_all()
        for name, optimizer in self._optimizers().items():
            states[name] = optimizer.state_dict()
        facts = {
            "num_timesteps": agent.num_timesteps,
            "n_iterations": agent.n_iterations,
            "order": agent.order.state_dict(),
            "pending": self._pending(),
            "counts": dict(self.logger.name_to_count),
            "history": self.dev.history,
            "seconds": self.seconds,
            "peak_memory_gib": self.peak_memory(),
        }
        save_checkpoint(
            self.folder.checkpoints,
            agent.n_iterations,
            weights=self._weights(),
            states=states,
            facts=facts,
            keep=self.config.run.keep_checkpoints,
        )
        self._saved_at = agent.n_iterations

    def _weights(self) -> dict[str, dict[str, torch.Tensor]]:
        """Give the weights to save: those that learn and, where it is another, the policy that is evaluated."""
        agent = self.agent
        assert agent.model is not None
        weights = {"model": agent.model.state_dict(), "policy": agent.policy.state_dict()}
        if agent.policy_average is not None:
            with agent.evaluated_policy() as policy:
                weights["policy_average"] = {k: v.clone() for k, v in policy.state_dict().items()}
        return weights

    def _pending(self) -> dict[str, float]:
        """What was recorded since the last point of the curves."""
        return {tag: float(value) for tag, value in self.logger.name_to_value.items()}

    def _restore(self, checkpoint: Checkpoint) -> None:
        agent, facts = self.agent, checkpoint.facts
        assert agent.model is not None
        load_weights(checkpoint, model=agent.model, policy=agent.policy)
        for name, optimizer in self._optimizers().items():
            optimizer.load_state_dict(checkpoint.states[name])
        agent.generator.set_state(checkpoint.states["generator"])
        torch.set_rng_state(checkpoint.states["torch"])
        if torch.cuda.is_available() and "cuda" in checkpoint.states:
            torch.cuda.set_rng_state_all(checkpoint.states["cuda"])
        agent.load_learning_state(checkpoint.states["learning"])
        agent.order.load_state_dict(facts["order"])
        agent.num_timesteps = int(facts["num_timesteps"])
        agent.n_iterations = int(facts["n_iterations"])
        self.logger.name_to_value.update(facts["pending"])
        self.logger.name_to_excluded.update(dict.fromkeys(facts["pending"], ()))
        self.logger.name_to_count.update(facts["counts"])
        self.dev.history = list(facts["history"])
        self.seconds_before = float(facts["seconds"])
        self.peak_before = float(facts["peak_memory_gib"])
        self._saved_at = agent.n_iterations

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        named = {
            "encoder_optimizer": self.agent.encoder_optimizer,
            "policy_optimizer": self.agent.policy_optimizer,
        }
        return {name: optimizer for name, optimizer in named.items() if optimizer is not None}

    def peak_memory(self) -> float:
        """Give the largest resident memory of the process (of any of its continuations), in GiB."""
        scale = 2**20 if sys.platform != "darwin" else 2**30  # Linux counts KiB, macOS bytes
        return max(self.peak_before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale)

    def learn(self) -> int | None:
        """Train to the end, or until a signal; give the signal's number, or None when the run is complete.

        Whatever belongs to an iteration is in the curves before the iteration's checkpoint is written, so that
        a run that goes on from it has nothing to write twice.

        Raises:
            NonFiniteLossError: Training diverged; the last checkpoint is kept.
        """
        agent, run, last = self.agent, self.config.run, self.total_iterations
        with Interrupt() as interrupt:
            callbacks = CallbackList(
                [
                    BracketingSummary(last),
                    *([] if self.diagnosis is None else [self.diagnosis]),
                    self.dev,
                    Progress(last, self.dev, shown=run.progress),
                    Checkpoints(self.save, run.checkpoint_interval, last),
                    interrupt,
                ]
            )
            callbacks.init_callback(agent)
            try:
                if agent.n_iterations < last:
                    agent.learn(
                        sys.maxsize - agent.num_timesteps,
                        callback=callbacks,
                        reset_num_timesteps=agent.n_iterations == 0,
                        total_iterations=last,
                    )
                if agent.n_iterations < last:
                    self.save()
                    return interrupt.received
                if self.logger.name_to_value:  # the last iterations, fewer than make a point
                    agent.dump_logs()
                if not self.dev.is_current:
                    self.dev.evaluate()
            except NonFiniteLossError as error:
                raise NonFiniteLossError(self._diverged(error)) from error
            self.save()
            return None

    def _diverged(self, error: NonFiniteLossError) -> str:
        try:
            kept = load_checkpoint(self.folder.checkpoints)
        except CheckpointError:
            return f"{error}. The run in {self.folder.path} has no checkpoint yet"
        return (
            f"{error}. The last good checkpoint, iteration {kept.step}, is kept in {self.folder.checkpoints}"
        )

    def hyper_parameters(self) -> None:
        """Record the settings in TensorBoard's table of hyper-parameters."""
        flat: dict[str, Any] = {}

        def walk(prefix: str, value: Any) -> None:
            if isinstance(value, dict):
                for key, item in value.items():
                    walk(f"{prefix}.{key}" if prefix else key, item)
            else:
                flat[prefix] = value if isinstance(value, int | float | str | bool) else str(value)

        walk("", settings_record(self.config))
        metrics = {"eval/accuracy": 0.0, "rollout/reward": 0.0}
        self.logger.record("hparams", HParam(flat, metrics), exclude=("stdout", "log", "json", "csv"))
        self.logger.dump(0)

    def test(self) -> Evaluation | None:
        """Measure the weights as they are on the test set, in detail; None if that was not asked for."""
        agent, corpora = self.agent, self.corpora
        if corpora.test is None:
            return None
        assert agent.model is not None
        with agent.evaluated_policy() as policy:
            return evaluate(
                agent.model,
                policy,
                corpora.test,
                corpora.test_report,
                seed=self.config.seed,
                detail=True,
            )

    def finish(self) -> tuple[dict[str, Any], Evaluation | None]:
        """Write the parses and figures of the final weights on dev, and on the test set if that was asked for.

        Returns:
            The figures on dev, and what was measured on the test set.
        """
        agent = self.agent
        if agent.rewarder is not agent.model:  # the explorer's figures are not those of what is kept
            self.dev.evaluate(agent.model)
        measured, table = self.dev.latest or self.dev.evaluate()
        dev = self.corpora.dev
        if measured.derivations is not None:
            write_parses(self.folder.dev_parses, parse_records(dev, measured.derivations))
        write_predictions(predictions_of(self.folder.path), prediction_records(dev, measured.predicted))
        results = {
            "task": task_of(self.config),
            "system": self.config.agent.system,
            "parser": self.config.parser.kind,
            "seed": self.config.seed,
            "dev_accuracy": measured.accuracy,
            "dev_cross_entropy": measured.cross_entropy,
            "dev_examples": len(self.corpora.dev),
            "train_examples": len(self.corpora.train),
            "parses": None if table is None else table.as_json(),
            "history": self.dev.history,
            "iterations": agent.n_iterations,
            "transitions": agent.num_timesteps,
            "seconds": round(self.seconds, 1),
            "peak_memory_gib": round(self.peak_memory(), 2),
            "command": command_line(),
        }
        test = self.test()
        if test is not None:
            write_evaluation(self.folder.measured("test"), test, self.folder.path)
        write_json(self.folder.results_file, results)
        plot_run(self.folder.metrics_file, self.folder.picture, self.folder.path.name)
        return results, test


def command_line() -> str:
    """Give the command that is running, as it could be typed again."""
    return " ".join(["rlparse", *map(shlex.quote, sys.argv[1:])])


def run_train(config: TrainConfig, *, resume: Path | None = None) -> int:
    """Run ``rlparse train``: begin a run, or continue the one in the folder ``resume``.

    Raises:
        CheckpointError: The run to continue has no usable checkpoint.
        ConfigError: Settings do not fit each other.
        NonFiniteLossError: Training diverged.
    """
    _check_run(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    with matmul_precision(config.precision):
        return _train(config, resume)


def _train(config: TrainConfig, resume: Path | None) -> int:
    """Train, and say how it went."""
    out = console()
    if resume is None:
        config = replace(config, threads=torch.get_num_threads())
        training = _begin(config, out)
    else:
        training = _continue(config, RunFolder(resume), out)
    folder = training.folder
    with closing(training.logger):
        if resume is None:
            training.hyper_parameters()
            training.save()
        received = training.learn()
        if received is not None:
            out.print(
                f"stopped at iteration {training.agent.n_iterations} of {training.total_iterations}; a checkpoint "
                f"is saved. Continue with: rlparse train --resume {shlex.quote(str(folder.path))}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
            return 128 + received
        results, test = training.finish()
    print_training_results(out, training.config, folder, training.corpora.dev, training.dev, results, test)
    return 0


def _check_run(config: TrainConfig) -> None:
    """Refuse settings of a run that could not work.

    Raises:
        ConfigError: A setting is too small; says which.
    """
    least = {"log_interval": 1, "eval_interval": 0, "checkpoint_interval": 1, "sample_trees": 0}
    for name, bound in least.items():
        value = getattr(config.run, name)
        if value < bound:
            raise ConfigError(f"run.{name} must be at least {bound}, got {value}")
    if config.run.keep_checkpoints < 2:
        raise ConfigError(
            f"run.keep_checkpoints must be at least 2, got {config.run.keep_checkpoints}: "
            "a damaged checkpoint is only harmless if there is one before it"
        )
    if config.agent.epochs <= 0:
        raise ConfigError(f"agent.epochs must be more than 0, got {config.agent.epochs}")


def _begin(config: TrainConfig, out: Console) -> Training:
    """Make the folder of a new run."""
    corpora = make_corpora(config)
    agent = make_agent(config, corpora)  # before the folder: settings that do not fit leave none
    folder = new_run(config)
    _describe_run(config, folder, corpora)
    training = Training(config, folder, corpora, agent, None)
    out.print(str(folder.path), style="bold", highlight=False, markup=False, soft_wrap=True)
    for line in corpora.report:
        out.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    return training


def _continue(config: TrainConfig, folder: RunFolder, out: Console) -> Training:
    """Open a run at its newest whole checkpoint.

    Raises:
        CheckpointError: There is none, or the corpora are not those of the run.
    """
    described = folder.read(folder.config_file)
    checkpoint = load_checkpoint(folder.checkpoints)
    corpora = make_corpora(config, folder.vocabulary())
    before, now = folder.read(folder.corpus_file).get("content"), _content(corpora)
    if before != now:
        changed = [part for part in now if not isinstance(before, dict) or before.get(part) != now[part]]
        raise CheckpointError(
            f"{folder.path} cannot go on: its {' and '.join(changed)} examples are not those it began with "
            "(the files have changed, or were moved and others are in their place)"
        )
    for message in checkpoint.damaged:
        out.print(
            f"passed over a checkpoint: {message}",
            style="yellow",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    training = Training(config, folder, corpora, make_agent(config, corpora), checkpoint)
    described["settings"] = settings_record(config)
    described.setdefault("continued", []).append({"iteration": checkpoint.step, "command": command_line()})
    write_json(folder.config_file, described)
    # If more epochs were asked for, the run is not done any more.
    if checkpoint.step < training.total_iterations:
        folder.results_file.unlink(missing_ok=True)
        (folder.measured("test") / folder.results_file.name).unlink(missing_ok=True)
    out.print(
        f"{folder.path}: going on from iteration {checkpoint.step} of {training.total_iterations}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return training


def _content(corpora: Corpora) -> dict[str, str]:
    """Give a fingerprint of the examples, by which a continued run knows them again."""
    found = {}
    parts = {"training": corpora.train, "dev": corpora.dev}
    if corpora.test is not None:
        parts["test"] = corpora.test
    for part, corpus in parts.items():
        digest = hashlib.sha256(json.dumps(corpus.token_counts(), sort_keys=True).encode())
        for values in (corpus.lengths, corpus.label_indices, corpus.has_gold):
            digest.update(np.ascontiguousarray(values).tobytes())
        found[part] = digest.hexdigest()
    return found


def _describe_run(config: TrainConfig, folder: RunFolder, corpora: Corpora) -> None:
    """Write what a run needs to be opened again."""
    versions = {
        "rlparse": rlparse.__version__,
        "torch": torch.__version__,
        "gymnasium": gymnasium.__version__,
        "stable_baselines3": stable_baselines3.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    write_json(
        folder.config_file,
        {
            "settings": settings_record(config),
            "versions": versions,
            "command": command_line(),
            "commit": _commit(),
            "cpus": os.cpu_count(),
            "device": str(resolve_device(config.device)),
        },
    )
    train = corpora.train
    facts = {
        "labels": list(train.labels),
        "n_sides": train.n_sides,
        "report": list(corpora.report),
        "content": _content(corpora),
    }
    write_json(folder.corpus_file, facts)
    write_json(folder.vocabulary_file, corpora.vocabulary.to_json())


def _commit() -> str | None:
    """Commit of the checkout this runs from, if it is one."""
    root = Path(rlparse.__file__).resolve().parents[1] / ".git"
    try:
        head = (root / "HEAD").read_text(encoding="utf-8").strip()
        return (root / head[5:]).read_text(encoding="utf-8").strip() if head.startswith("ref: ") else head
    except OSError:
        return None
