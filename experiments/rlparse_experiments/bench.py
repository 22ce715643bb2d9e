"""``rlparse bench``: how fast the parts run on this machine, side by side in one process.

What is compared is measured in turns: every round times each contender once, so that a machine that slows down slows
all of them. A contender's figure is the median over the rounds, its spread their least and greatest; how much faster
one is than another is the median of the rounds' ratios. CPU only.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from rlparse import lockstep
from rlparse.checkpoint import write_json
from rlparse.corpora.corpus import Corpus
from rlparse.corpora.examples import NLI_LABELS, Example, Sentence
from rlparse.errors import ConfigError
from rlparse.models.composition import BinaryTreeLSTM, Composition
from rlparse.models.stack_machine import StackMachine
from rlparse.trees import uniform_tree
from rlparse.vocabulary import Vocabulary
from rlparse_agents.policy_gradient import PolicyGradient
from rlparse_envs.shift_reduce import ShiftReduceEnv
from rlparse_experiments.assembly import Corpora, make_agent
from rlparse_experiments.config import (
    AgentConfig,
    BenchConfig,
    CorpusConfig,
    EncoderConfig,
    TrainConfig,
    as_json,
)

MEAN_LENGTH, SHORTEST, LONGEST = 12, 3, 50
"""Sentence lengths: about those of SNLI, log-normal and cut at both ends."""

LOG_SPREAD = 0.5
"""Standard deviation of the logarithm of a length."""

WORDS = 5000
"""Vocabulary of the drawn sentences."""

ENCODER_BATCHES = 2
"""Batches that the encoders work through in turn."""

ENVIRONMENT_STEPS = 500
"""Steps of the environment that are timed together."""

LEAST_SECONDS = 0.25
"""A timing repeats its work for at least so long."""


class Contender(NamedTuple):
    """Something that is timed.

    Attributes:
        group: Contenders of one group do the same job; the first of them is what the others are compared with.
        name: How this one does it.
        unit: What is counted.
        work: Does the job once and gives how many units that was.
    """

    group: str
    name: str
    unit: str
    work: Callable[[], int]


class Measurement(NamedTuple):
    """What was measured of one contender.

    Attributes:
        group: See `Contender`.
        name: See `Contender`.
        unit: See `Contender`.
        rates: Units per second, one of every round.
        speedup: Median over the rounds of the rate as a multiple of the first of the group's.
    """

    group: str
    name: str
    unit: str
    rates: tuple[float, ...]
    speedup: float

    def as_json(self) -> dict[str, Any]:
        """Give plain JSON values."""
        summary = {"median": median(self.rates), "least": min(self.rates), "greatest": max(self.rates)}
        return self._asdict() | summary


def measure_in_turns(
    contenders: Sequence[Contender],
    *,
    rounds: int,
    least_seconds: float = LEAST_SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Measurement]:
    """Time every contender once a round, after one unmeasured round to warm up.

    Args:
        contenders: Those of one group next to each other.
        rounds: How often each is timed.
        least_seconds: A timing repeats the work until so much time has passed.
        clock: Gives seconds.
    """
    for contender in contenders:
        contender.work()
    rates: list[list[float]] = [[] for _ in contenders]
    for _ in range(rounds):
        for contender, found in zip(contenders, rates, strict=True):
            done, start = 0, clock()
            while True:
                done += contender.work()
                seconds = clock() - start
                if seconds > 0 and seconds >= least_seconds:
                    break
            found.append(done / seconds)
    first: dict[str, list[float]] = {}
    measured = []
    for contender, found in zip(contenders, rates, strict=True):
        reference = first.setdefault(contender.group, found)
        speedup = median(own / theirs for own, theirs in zip(found, reference, strict=True))
        measured.append(Measurement(contender.group, contender.name, contender.unit, tuple(found), speedup))
    return measured


# ------------------------------------------------------------------------------------------------ what is timed


def draw_corpus(n_examples: int, rng: np.random.Generator) -> Corpus:
    """Draw pairs of sentences of SNLI's lengths over random words, with uniformly random trees as gold."""

    def sentence() -> Sentence:
        drawn = rng.lognormal(math.log(MEAN_LENGTH) - LOG_SPREAD**2 / 2, LOG_SPREAD)
        n = int(np.clip(round(drawn), SHORTEST, LONGEST))
        words = tuple(f"w{word}" for word in rng.integers(WORDS, size=n).tolist())
        return Sentence(words, tuple(uniform_tree(n, rng)))

    examples = [
        Example((sentence(), sentence()), NLI_LABELS[int(rng.integers(len(NLI_LABELS)))])
        for _ in range(n_examples)
    ]
    corpus = Corpus.from_examples(examples, labels=NLI_LABELS, name="drawn")
    return corpus.with_vocabulary(Vocabulary.build(corpus.token_counts()))


class Sentences(NamedTuple):
    """A batch for the encoders.

    Attributes:
        embeddings: [R, N, E] float, with gradient.
        lengths: [R] int64.
        transitions: [R, T] int64.
        derivations: The same as lists without padding.
    """

    embeddings: Tensor
    lengths: Tensor
    transitions: Tensor
    derivations: list[list[int]]


Encoder = Callable[[Sentences], Tensor]
"""Encode a batch: to [R, ...] float, one row a sentence."""


def encode_one_by_one(composition: Composition, batch: Sentences) -> Tensor:
    """Encode by recursion over one sentence after the other, one node at a time: how it is done without batching.

    Returns:
        [R, state_size] float. States of the roots.
    """
    roots = []
    for embeddings, derivation in zip(batch.embeddings, batch.derivations, strict=True):
        front = 0
        stack: list[Tensor] = []
        for transition in derivation:
            if transition == lockstep.REDUCE:
                right, left = stack.pop(), stack.pop()
                stack.append(composition(left, right))
            else:
                stack.append(composition.leaf(embeddings[front : front + 1]))
                front += 1
        roots.append(stack.pop())
    return torch.cat(roots)


def encoders(hidden_size: int) -> list[tuple[str, nn.Module, Encoder]]:
    """Give the encoders to compare: name, parameters, function. The first three compute the same."""
    composition = BinaryTreeLSTM(hidden_size, hidden_size)
    lstm = nn.LSTM(hidden_size, hidden_size, batch_first=True)

    def naive(batch: Sentences) -> Tensor:
        return encode_one_by_one(composition, batch)

    def scheduled(schedule: str) -> Encoder:
        machine = StackMachine(composition, schedule=schedule)

        def encode(batch: Sentences) -> Tensor:
            roots: Tensor = machine(batch.embeddings, lockstep.trace(batch.transitions, batch.lengths)).roots
            return roots

        return encode

    def packed(batch: Sentences) -> Tensor:
        sequence = pack_padded_sequence(
            batch.embeddings, batch.lengths, batch_first=True, enforce_sorted=False
        )
        last: Tensor = lstm(sequence)[1][0][0]
        return last

    return [
        ("TreeLSTM, node by node", composition, naive),
        ("TreeLSTM, by_step", composition, scheduled("by_step")),
        ("TreeLSTM, by_level", composition, scheduled("by_level")),
        ("LSTM, packed", lstm, packed),
    ]


def encoder_contenders(corpus: Corpus, config: BenchConfig) -> list[Contender]:
    """Time forward and backward, from embeddings and derivations to all gradients."""
    pairs = config.batch_size // 2
    batches = []
    generator = torch.Generator().manual_seed(config.seed)
    for number in range(ENCODER_BATCHES):
        batch = corpus.batch(np.arange(number * pairs, (number + 1) * pairs))
        shape = (*batch.tokens.shape, config.hidden_size)
        sizes = (2 * batch.lengths - 1).tolist()
        derivations = [row[:size] for row, size in zip(batch.gold.tolist(), sizes, strict=True)]
        embeddings = torch.randn(shape, generator=generator).requires_grad_()
        batches.append(Sentences(embeddings, batch.lengths, batch.gold.long(), derivations))

    def work(parameters: nn.Module, encode: Encoder) -> Callable[[], int]:
        turn = cycle(batches)

        def once() -> int:
            batch = next(turn)
            torch.autograd.grad(encode(batch).sum(), (batch.embeddings, *parameters.parameters()))
            return len(batch.lengths)

        return once

    return [
        Contender("encoder, forward and backward", name, "sentences/s", work(parameters, encode))
        for name, parameters, encode in encoders(config.hidden_size)
    ]


def make_bench_agent(corpus: Corpus, config: BenchConfig) -> PolicyGradient:
    """Build the agent that ``rlparse train`` would, with its default settings but the bench's sizes."""
    settings = TrainConfig(
        seed=config.seed,
        device="cpu",
        corpus=CorpusConfig(generator="none"),
        encoder=EncoderConfig(embedding_size=config.hidden_size, hidden_size=config.hidden_size),
        agent=AgentConfig(batch_size=config.batch_size // 2),
    )
    assert corpus.vocabulary is not None
    agent = make_agent(settings, Corpora(corpus, corpus, corpus.vocabulary, ()))
    agent.set_logger(Logger(folder=None, output_formats=[]))
    return agent


def agent_contenders(corpus: Corpus, config: BenchConfig) -> list[Contender]:
    """Time the sampling of parses, and whole training iterations."""
    agent = make_bench_agent(corpus, config)
    batch = corpus.batch(np.arange(config.batch_size // 2))
    transitions = int((2 * batch.lengths - 1).sum())
    generator = torch.Generator().manual_seed(config.seed)

    def sample() -> int:
        agent.policy.derive(batch, generator=generator)
        return transitions

    def iterate() -> int:
        before = agent.num_timesteps
        agent.learn(1, reset_num_timesteps=False)
        return agent.num_timesteps - before

    return [
        Contender("rollout", "TrackerPolicy, sampling", "transitions/s", sample),
        Contender("training iteration", f"PolicyGradient, {agent.n_parses} parses", "transitions/s", iterate),
    ]


def environment_contender(corpus: Corpus, config: BenchConfig) -> Contender:
    """Time the environment under random legal actions."""
    env = ShiftReduceEnv(corpus)
    coins = cycle(np.random.default_rng(config.seed).integers(2, size=1013).tolist())
    mask = env.reset(seed=config.seed)[1]["action_mask"]

    def play() -> int:
        nonlocal mask
        for _ in range(ENVIRONMENT_STEPS):
            action = next(coins)
            if not mask[action]:
                action = 1 - action
            _, _, terminated, _, info = env.step(action)
            mask = (env.reset()[1] if terminated else info)["action_mask"]
        return ENVIRONMENT_STEPS

    return Contender("environment", "ShiftReduceEnv, symbolic", "steps/s", play)


# ---------------------------------------------------------------------------------------------------- the command


def machine() -> dict[str, Any]:
    """Describe what the figures belong to, with the load at the beginning."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = [line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if ":" in line]
        named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        model = named[0] if named else model
    return {
        "processor": model,
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def run_bench(config: BenchConfig) -> int:
    """Run ``rlparse bench``.

    Raises:
        ConfigError: A size is too small.
    """
    for name, least in (("hidden_size", 1), ("batch_size", 2), ("repeats", 1), ("threads", 1), ("seed", 0)):
        if getattr(config, name) < least:
            raise ConfigError(f"{name} must be at least {least}, got {getattr(config, name)}")
    if config.quick:
        config = replace(config, hidden_size=8, batch_size=8, repeats=2)
    start = time.perf_counter()
    described = machine()
    rng = np.random.default_rng(config.seed)
    corpus = draw_corpus(max(256, ENCODER_BATCHES * config.batch_size // 2), rng)
    with _threads(config.threads):
        contenders = [
            *encoder_contenders(corpus, config),
            *agent_contenders(corpus, config),
            environment_contender(corpus, config),
        ]
        measured = measure_in_turns(
            contenders, rounds=config.repeats, least_seconds=0.0 if config.quick else LEAST_SECONDS
        )
    _print(config, described, measured, time.perf_counter() - start)
    if config.json is not None:
        record = {
            "machine": described,
            "settings": as_json(config),
            "measurements": [measurement.as_json() for measurement in measured],
        }
        write_json(config.json, record)
        print(f"written: {config.json}")
    return 0


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Let torch use so many threads, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _print(
    config: BenchConfig, described: dict[str, Any], measured: Sequence[Measurement], seconds: float
) -> None:
    from rlparse_experiments.report.tables import console

    out: Console = console()

    def say(text: str, style: str | None = None) -> None:
        out.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    cpus, load = described["cpus"], described["load"]
    threads = f"{config.threads} thread{'s' if config.threads > 1 else ''}"
    say(
        f"{described['processor']}, {cpus} CPUs, {threads} used, {described['system']}, "
        f"Python {described['python']}, torch {described['torch']}"
    )
    say(
        f"hidden size {config.hidden_size}, batches of {config.batch_size} sentences of {SHORTEST} to {LONGEST} "
        f"random words (mean about {MEAN_LENGTH}), uniformly random trees; {config.repeats} rounds in turns"
    )
    if config.quick:
        say("--quick: sizes too small to mean anything", "yellow")
    if load is not None and cpus is not None and load + config.threads > cpus + 0.5:
        say(
            f"other programs are running (load {load} on {cpus} CPUs): expect lower figures than on an idle machine",
            "yellow",
        )
    table = Table(box=SIMPLE_HEAD)
    table.add_column("what", no_wrap=True)
    for name in ("median", "least", "greatest"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("ratio", justify="right", no_wrap=True)
    sizes = {group: sum(m.group == group for m in measured) for group in (m.group for m in measured)}
    shown = ""
    for m in measured:
        if m.group != shown:
            shown = m.group
            table.add_row(f"[bold]{m.group}[/bold]")
        numbers = (median(m.rates), min(m.rates), max(m.rates))
        ratio = f"{m.speedup:.1f}" if sizes[m.group] > 1 else ""
        table.add_row(f"  {m.name}", *(f"{number:,.0f}" for number in numbers), m.unit, ratio)
    out.print(table)
    say(f"ratio: median over the rounds, to the first line of the group; {seconds:.0f} s in all")
