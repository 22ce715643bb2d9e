"""SPINN that parses by itself: one set of weights for a tracker, a composition and a policy.

Here are the weights, the loss of a whole step of reinforcement learning, and the step on rlparse's stack machine; the
same on lists of tensors is in `list_spinn`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlparse.lockstep import REDUCE, SHIFT
from rlparse.models.composition import BinaryTreeLSTM
from rlparse.models.stack_machine import StackMachine, distinct_words
from rlparse.models.tracker import Tracker
from rlparse_agents.distribution import MaskedDistribution
from rlparse_experiments.bench.workload import Sentences


class RLSpinn(nn.Module):
    """The weights: a tracker reads buffer and stack, feeds the composition and chooses transitions.

    Args:
        n_types: Entries of the vocabulary.
        hidden_size: D, also the width of embeddings.
        tracker_size: H.
        n_classes: C.
    """

    def __init__(self, n_types: int, hidden_size: int, tracker_size: int, n_classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_types, hidden_size, padding_idx=0)
        self.cell = BinaryTreeLSTM(hidden_size, hidden_size, tracker_size=tracker_size)
        self.tracker = Tracker(hidden_size, tracker_size)
        self.head = nn.Linear(tracker_size, 2)
        self.classifier = nn.Linear(hidden_size, n_classes)


class Parsed(NamedTuple):
    """A batch after its policy parsed it.

    Attributes:
        roots: [R, D] float. Hidden vectors of the roots.
        log_probs: [R] float. Summed over a row's free decisions.
        n_free: Free decisions of all rows.
        derivations: What was sampled, or given: [R, T] int64, or lists without padding.
    """

    roots: Tensor
    log_probs: Tensor
    n_free: int
    derivations: Tensor | list[list[int]]


def parse_with_machine(
    model: RLSpinn, batch: Sentences, *, generator: torch.Generator | None = None
) -> Parsed:
    """Sample every transition from the policy while composing, with one backward pass for everything.

    Args:
        model: The weights.
        batch: Sentences, in any order.
        generator: Source of randomness.
    """
    head = model.head
    for_shift = (head.weight[SHIFT] - head.weight[REDUCE]).detach()
    bias = (head.bias[SHIFT] - head.bias[REDUCE]).detach()

    def choose(hidden: Tensor, stack_sizes: Tensor, buffer_sizes: Tensor) -> Tensor:
        draws = torch.rand(len(hidden), generator=generator, device=hidden.device)
        reduce = draws >= torch.sigmoid(torch.addmv(bias, hidden, for_shift))
        return (reduce & (stack_sizes > 1) | (buffer_sizes == 0)).long()

    machine = StackMachine(model.cell, model.tracker)
    types, words = distinct_words(batch.tokens, batch.n_types)
    encoding, transitions = machine.sample(model.embedding(types), batch.lengths, choose, words)
    assert encoding.tracker is not None
    policy = MaskedDistribution(head(encoding.tracker), encoding.trace.legal)
    log_probs = policy.log_prob(transitions).masked_fill(~policy.free, 0.0).sum(1)
    return Parsed(encoding.roots, log_probs, int(policy.free.sum()), transitions)


def step_loss(model: RLSpinn, roots: Tensor, log_probs: Tensor, n_free: int, labels: Tensor) -> Tensor:
    """Give the loss of a whole step: cross-entropy of the classifier, and REINFORCE for its accuracy.

    Args:
        model: The weights.
        roots: [R, D] float.
        log_probs: [R] float.
        n_free: Free decisions of all rows.
        labels: [R] int64.
    """
    logits: Tensor = model.classifier(roots)
    with torch.no_grad():
        rewards = (logits.argmax(dim=1) == labels).float()
        advantages = rewards - rewards.mean()
    cross_entropy = F.cross_entropy(logits, labels)
    return cross_entropy - (advantages * log_probs).sum() / max(n_free, 1)
