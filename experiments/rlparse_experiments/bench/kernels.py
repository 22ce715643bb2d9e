"""How many kernels a training step launches.

On a CUDA device they are counted by torch's profiler. Without one the count is that of the operators that PyTorch
dispatches on the CPU and that are no views: their twins, of which some would be several kernels and some none.
rlparse's compiled gates are counted among them, as the one kernel that each is on a GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from rlparse import compiled
from rlparse.corpora.batching import Batch
from rlparse.corpora.examples import NLI_LABELS
from rlparse.models.composition import BinaryTreeLSTM
from rlparse_agents.policy import TrackerPolicy
from rlparse_agents.policy_gradient import PolicyGradient
from rlparse_experiments.bench.list_spinn import encode_with_lists, parse_with_lists
from rlparse_experiments.bench.measuring import Contender, Section, Work
from rlparse_experiments.bench.rl_spinn import RLSpinn, step_loss
from rlparse_experiments.bench.rollout import TRACKER_SIZE
from rlparse_experiments.bench.training import FOREVER, Stop, preset_config, silent_agent
from rlparse_experiments.bench.workload import draw_corpus, draw_sentences
from rlparse_experiments.config import BenchConfig, ParserKind, TrainConfig

KEY = "kernels"
SUPERVISED, RL = "rlparse, known parses, by level", "rlparse, PolicyGradient"
LISTS, RL_LISTS = "lists of tensors, known parses", "lists of tensors, RL-SPINN"

PAIRS = 128
"""Pairs of sentences in the step."""

NO_KERNELS = (
    "empty",
    "new_empty",
    "empty_like",
    "empty_strided",
    "_local_scalar_dense",
    "lift_fresh",
    "scalar_tensor",
)
"""Operators of ATen that allocate or read, and compute nothing."""

COPIES = ("Memcpy", "Memset")
"""What moves or fills memory without a kernel, as the profiler names it."""


class OperatorCount(TorchDispatchMode):
    """Count the operators that are dispatched in this thread and compute something: no views, no allocations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Carry the operator out and count it."""
        name = func.overloadpacket.__name__
        if not func.is_view and name not in NO_KERNELS:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


FUSED = ("tree_lstm_forward", "tree_lstm_backward", "lstm_forward", "lstm_backward", "add_rows")
"""Compiled functions that stand for one kernel each; the other ones run on the CPU wherever the tensors are."""


@contextmanager
def counting_fused(counts: Counter[str]) -> Iterator[None]:
    """Count the calls of compiled functions, which PyTorch does not see."""
    own = {name: getattr(compiled.Kernels, name) for name in FUSED}

    def counted(name: str) -> Callable[..., object]:
        def call(*arguments: Any) -> object:
            counts[name] += 1
            return own[name](*arguments)

        return call

    for name in FUSED:
        setattr(compiled.Kernels, name, counted(name))
    try:
        yield
    finally:
        for name, function in own.items():
            setattr(compiled.Kernels, name, function)


def count_kernels(step: Callable[[], object], device: torch.device) -> int:
    """Count what one step launches, after two that are not counted."""
    step()
    step()
    if device.type != "cuda":
        with OperatorCount() as counted, counting_fused(counted.counts):
            step()
        return sum(counted.counts.values())
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        step()
        torch.cuda.synchronize()
    found = (event for event in profiled.events() if event.device_type.name == "CUDA")
    return sum(not event.name.startswith(COPIES) for event in found)


def supervised_step(agent: PolicyGradient, batch: Batch) -> Callable[[], None]:
    """Classify pairs along their given trees, and update: what a training step without a policy is."""
    model = agent.model
    assert model is not None
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(batch, batch.gold), batch.labels).backward()
        optimizer.step()

    return step


def reinforced_step(agent: PolicyGradient) -> Callable[[], None]:
    """One iteration of the agent, with everything in it; without a CUDA device in the form that it has on one."""
    if agent.device.type != "cuda":
        assert isinstance(agent.policy, TrackerPolicy)
        agent.policy.sampler = "dense"
        for optimizer in (agent.policy_optimizer, agent.encoder_optimizer):
            assert optimizer is not None
            for group in optimizer.param_groups:
                group["foreach"] = True

    def step() -> None:
        agent.learn(FOREVER, callback=Stop(1), reset_num_timesteps=False)

    return step


def list_step(
    lengths: Tensor, hidden_size: int, *, sampled: bool, seed: int, device: torch.device
) -> Callable[[], None]:
    """Do the same with lists, along given or along sampled parses.

    Args:
        lengths: [R] int64.
        hidden_size: D.
        sampled: Whether a policy parses.
        seed: Of everything drawn.
        device: Where to compute.
    """
    torch.manual_seed(seed)
    in_order = np.sort(lengths.numpy())[::-1].copy()
    batch = draw_sentences(in_order, hidden_size, np.random.default_rng(seed))
    batch = batch._replace(tokens=batch.tokens.to(device), labels=batch.labels.to(device))
    model = RLSpinn(batch.n_types, hidden_size, min(TRACKER_SIZE, hidden_size), len(NLI_LABELS)).to(device)
    cell = BinaryTreeLSTM(hidden_size, hidden_size).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    used = model if sampled else nn.ModuleList((model.embedding, cell, model.classifier))
    optimizer = torch.optim.AdamW(used.parameters(), foreach=True)

    def loss() -> Tensor:
        if not sampled:
            return F.cross_entropy(
                model.classifier(encode_with_lists(model.embedding, cell, batch)), batch.labels
            )
        parsed = parse_with_lists(model, batch, generator=generator)
        return step_loss(model, parsed.roots, parsed.log_probs, parsed.n_free, batch.labels)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step


def section(config: BenchConfig) -> Section:
    """Give the section that counts kernels."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pairs = 4 if config.quick else PAIRS

    def build() -> list[Contender]:
        corpus = draw_corpus(pairs, np.random.default_rng(config.seed))
        first = corpus.batch(np.arange(pairs))

        def settings(kind: ParserKind) -> TrainConfig:
            return preset_config(config, kind, batch_size=pairs, device=device.type)

        def supervised() -> Work:
            step = supervised_step(silent_agent(corpus, settings("gold")), first.to(device))
            return lambda: count_kernels(step, device)

        def reinforced() -> Work:
            step = reinforced_step(silent_agent(corpus, settings("tracker")))
            return lambda: count_kernels(step, device)

        def lists(sampled: bool) -> Work:
            hidden_size = settings("gold").encoder.hidden_size
            step = list_step(first.lengths, hidden_size, sampled=sampled, seed=config.seed, device=device)
            return lambda: count_kernels(step, device)

        return [
            Contender(SUPERVISED, supervised),
            Contender(RL, reinforced),
            Contender(LISTS, partial(lists, False)),
            Contender(RL_LISTS, partial(lists, True)),
        ]

    unit = "kernels" if device.type == "cuda" else "operators"
    note = "" if device.type == "cuda" else " (operators on the CPU, their twins)"
    title = f"kernels launched by a training step of {pairs} pairs{note}"
    return Section(KEY, title, unit, build, timed=False)
