"""Sampling parses, and whole steps of reinforcement learning: sample, compose, and all gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rlparse.corpora.batching import Batch
from rlparse.corpora.examples import NLI_LABELS
from rlparse.models.nli_model import NLIModel
from rlparse_agents.policy import TrackerPolicy
from rlparse_envs.observations import GameSize, SymbolicObserver
from rlparse_envs.shift_reduce import ShiftReduceEnv
from rlparse_experiments.bench.list_spinn import parse_with_lists
from rlparse_experiments.bench.measuring import Contender, Section, Work
from rlparse_experiments.bench.rl_spinn import Parsed, RLSpinn, parse_with_machine, step_loss
from rlparse_experiments.bench.switches import not_compiled
from rlparse_experiments.bench.workload import Sentences, draw_sentences, snli_lengths
from rlparse_experiments.config import BenchConfig

MACHINE = "rlparse, tracker in the composition"
MACHINE_TORCH = f"{MACHINE}, not compiled"
READS_ENCODER, OWN_VECTORS = "rlparse, tracker reads the encoder", "rlparse, policy with vectors of its own"
LISTS, LEAN_LISTS = "lists of tensors, RL-SPINN", "lists of tensors, RL-SPINN, lean"

TRACKER_SIZE = 64
"""About that of published SPINNs; smaller where the hidden size is."""

BATCHES = 2


class ParsingClassifier:
    """A classifier of sentences with the policy that parses for it, and a batch for them.

    Args:
        batch: The sentences.
        hidden_size: D.
        tracker_size: H.
        reads: ``encoder`` or ``own``, as for `TrackerPolicy`.
    """

    def __init__(self, batch: Sentences, hidden_size: int, tracker_size: int, reads: str) -> None:
        rows, n_tokens = batch.tokens.shape
        self.model = NLIModel(
            batch.n_types,
            len(NLI_LABELS),
            n_sides=1,
            embedding_size=hidden_size,
            hidden_size=hidden_size,
            mlp_size=hidden_size,
            dropout=0.0,
        )
        self.policy = TrackerPolicy(
            SymbolicObserver(GameSize(n_tokens, 1, batch.n_types)).space,
            ShiftReduceEnv().action_space,
            n_tokens=batch.n_types,
            embedding_size=hidden_size,
            hidden_size=hidden_size,
            tracker_size=tracker_size,
            reads=reads,
            encoder=self.model,
        )
        self.batch = Batch(
            tokens=batch.tokens,
            lengths=batch.lengths,
            labels=batch.labels,
            gold=batch.transitions,
            has_gold=torch.ones(rows, dtype=torch.bool),
            indices=torch.arange(rows),
        )
        self.parameters = (*self.model.parameters(), *self.policy.parameters())

    def loss(self, generator: torch.Generator) -> Tensor:
        """Sample a parse of every sentence; classify; give cross-entropy and REINFORCE for the accuracy."""
        rollout = self.policy.sample(self.batch, generator=generator)
        logits: Tensor = self.model.head(self.model.encode(self.batch.tokens, rollout.trace))
        with torch.no_grad():
            rewards = (logits.argmax(dim=1) == self.batch.labels).float()
            advantages = rewards - rewards.mean()
        distribution = self.policy.judge(rollout).distribution
        free = distribution.free
        log_probs = distribution.log_prob(rollout.transitions).masked_fill(~free, 0.0).sum(1)
        cross_entropy = F.cross_entropy(logits, self.batch.labels)
        return cross_entropy - (advantages * log_probs).sum() / free.sum()


Parse = Callable[..., Parsed]
"""Parse a batch of sentences with an `RLSpinn`: (model, batch, generator=) to what was parsed."""


def spinn_work(parse: Parse, model: RLSpinn, batches: Sequence[Sentences], seed: int, *, whole: bool) -> Work:
    """Sample parses with SPINN; in a whole step also compute all gradients.

    Args:
        parse: How.
        model: The weights.
        batches: Sentences, longest first.
        seed: Of the samples.
        whole: Compute gradients.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = tuple(model.parameters())

    def work() -> int:
        with torch.set_grad_enabled(whole):
            for batch in batches:
                parsed = parse(model, batch, generator=generator)
                if whole:
                    loss = step_loss(model, parsed.roots, parsed.log_probs, parsed.n_free, batch.labels)
                    torch.autograd.grad(loss, parameters)
        return sum(batch.n_transitions for batch in batches)

    return work


def policy_work(steps: Sequence[ParsingClassifier], seed: int, *, whole: bool) -> Work:
    """The same with a policy that has parameters of its own."""
    generator = torch.Generator().manual_seed(seed)

    def work() -> int:
        for step in steps:
            if whole:
                torch.autograd.grad(step.loss(generator), step.parameters)
            else:
                step.policy.derive(step.batch, generator=generator)
        return sum(int((2 * step.batch.lengths - 1).sum()) for step in steps)

    return work


def contenders(hidden_size: int, batch_size: int, seed: int, *, whole: bool) -> list[Contender]:
    """Give all that parse by themselves, for one size."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    # Longest first, as the lists want it; the others do not care.
    batches = [
        draw_sentences(np.sort(snli_lengths(batch_size, rng))[::-1].copy(), hidden_size, rng)
        for _ in range(BATCHES)
    ]
    tracker_size = min(TRACKER_SIZE, hidden_size)
    model = RLSpinn(batches[0].n_types, hidden_size, tracker_size, len(NLI_LABELS))

    def spinn(parse: Parse) -> Callable[[], Work]:
        return lambda: spinn_work(parse, model, batches, seed, whole=whole)

    def policy(reads: str) -> Callable[[], Work]:
        def prepare() -> Work:
            steps = [ParsingClassifier(batch, hidden_size, tracker_size, reads) for batch in batches]
            return policy_work(steps, seed, whole=whole)

        return prepare

    return [
        Contender(MACHINE, spinn(parse_with_machine)),
        Contender(MACHINE_TORCH, lambda: not_compiled(spinn(parse_with_machine)())),
        Contender(READS_ENCODER, policy("encoder")),
        Contender(OWN_VECTORS, policy("own")),
        Contender(LISTS, spinn(parse_with_lists)),
        Contender(LEAN_LISTS, spinn(partial(parse_with_lists, running_only=True))),
    ]


def sections(config: BenchConfig) -> list[Section]:
    """Give what ``rlparse bench rollout`` measures."""
    return [
        Section(
            f"{key}/{size}",
            f"{title}, hidden size {size}",
            "transitions/s",
            partial(contenders, size, config.batch_size, config.seed, whole=whole),
        )
        for key, title, whole in (("step", "whole RL step", True), ("sampling", "sampling only", False))
        for size in config.hidden_size
    ]
