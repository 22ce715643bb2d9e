"""What a policy decides, by the kinds of the two items on top of the stack."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlparse import lockstep
from rlparse.batched_trees import span_keys
from rlparse.corpora.batching import Batch
from rlparse.lockstep import REDUCE
from rlparse_agents.distribution import MaskedDistribution
from rlparse_agents.parsing_policy import EncodingPolicy, LearningPolicy, ParsingPolicy
from rlparse_agents.rollout import Rollout
from rlparse_experiments.diagnosis.item_kinds import N_KINDS, ItemKinds, Items, items


class Decisions(NamedTuple):
    """Free decisions in states of one kind, and what the policy thinks of them.

    Attributes:
        top: Kind of the top of the stack.
        second: Kind of the item beneath it; empty where all are counted together.
        n: How many decisions.
        reduce: Mean probability of REDUCE.
        entropy: Mean entropy, divided by log 2: 1 is a fair coin.
        gold: Share of them in which REDUCE makes a node of the gold tree; None without gold trees.
    """

    top: str
    second: str
    n: int
    reduce: float
    entropy: float
    gold: float | None


def judges_transitions(policy: ParsingPolicy) -> bool:
    """Tell whether a policy gives probabilities of SHIFT and REDUCE."""
    return (
        isinstance(policy, LearningPolicy | EncodingPolicy) and policy.chooses_transitions and policy.judges
    )


def judged(policy: ParsingPolicy, batch: Batch, transitions: Tensor) -> MaskedDistribution:
    """Ask a policy for its distribution before every step of given derivations: [R, T] states.

    Raises:
        ValueError: It chooses no transitions, or gives no probabilities.
    """
    if not judges_transitions(policy):
        raise ValueError(
            f"{type(policy).__name__} gives no probabilities of transitions, so that there is nothing to tell by the "
            "state of the stack"
        )
    if isinstance(policy, LearningPolicy):
        return policy.judge(Rollout.of(batch.tokens, batch.lengths, transitions)).distribution
    assert isinstance(policy, EncodingPolicy)
    followed = batch._replace(gold=transitions, has_gold=torch.ones_like(batch.has_gold))
    judgement = policy.parse_and_encode(followed, gold=True).judgement
    assert judgement is not None
    return judgement.distribution


class DecisionCount:
    """Adds up what a policy thinks along derivations, batch after batch.

    Args:
        kinds: Of the corpus whose sentences are parsed.
    """

    def __init__(self, kinds: ItemKinds) -> None:
        self.kinds = kinds
        # For every pair of kinds: decisions, probability of REDUCE, entropy, those with gold, gold's REDUCEs.
        self._sums = np.zeros((5, N_KINDS * N_KINDS))

    @torch.no_grad()
    def add(self, policy: ParsingPolicy, batch: Batch, transitions: Tensor) -> None:
        """Count the free decisions of a batch.

        Args:
            policy: Whose they are.
            batch: Of R rows of the corpus.
            transitions: [R, T] int64 derivations.

        Raises:
            ValueError: The policy gives no probabilities of transitions.
        """
        distribution = judged(policy, batch, transitions)
        found = items(transitions, lockstep.trace(transitions, batch.lengths))
        top, second = self.kinds(batch, found).unbind(2)
        free = distribution.free
        makes_gold = _makes_gold(batch, found)
        known = batch.has_gold.unsqueeze(1).expand_as(free)
        columns = (
            torch.ones_like(free),
            distribution.log_probs[..., REDUCE].exp(),
            distribution.normalised_entropy(),
            known,
            makes_gold & known,
        )
        codes = (N_KINDS * top + second)[free]
        for total, column in zip(self._sums, columns, strict=True):
            weights = column[free].double().cpu().numpy()
            total += np.bincount(codes.cpu().numpy(), weights=weights, minlength=N_KINDS * N_KINDS)

    def by_pair(self) -> list[Decisions]:
        """Give the decisions by top and second, the most frequent kind of state first."""
        names = self.kinds.names
        rows = [
            _decisions(names[code // N_KINDS], names[code % N_KINDS], self._sums[:, code])
            for code in np.flatnonzero(self._sums[0]).tolist()
        ]
        return sorted(rows, key=lambda row: -row.n)

    def by_top(self) -> list[Decisions]:
        """Give the decisions by top alone, in the order of the kinds."""
        sums = self._sums.reshape(5, N_KINDS, N_KINDS).sum(axis=2)
        names = self.kinds.names
        return [_decisions(names[top], "", sums[:, top]) for top in np.flatnonzero(sums[0]).tolist()]


def _decisions(top: str, second: str, sums: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Decisions:
    n, reduce, entropy, n_known, makes_gold = sums.tolist()
    return Decisions(top, second, int(n), reduce / n, entropy / n, makes_gold / n_known if n_known else None)


def _makes_gold(batch: Batch, found: Items) -> Tensor:
    """Tell before every step whether REDUCE would make a node of the gold tree: [R, T] bool."""
    n_tokens = batch.tokens.shape[1]
    ends, starts = found.ends[:, :, 0], found.starts[:, :, 1]
    keys = (ends * n_tokens + n_tokens - 1 - starts).contiguous()  # as `span_keys` names them
    known = span_keys(batch.gold).cummax(dim=1).values
    at = torch.searchsorted(known, keys).clamp_max(known.shape[1] - 1)
    return known.gather(1, at) == keys
