"""Find good parses once a policy has learned: greedily, by beam search, or the best of several samples."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rlparse import PAD
from rlparse.corpora.batching import Batch
from rlparse_agents.incremental import IncrementalPolicy
from rlparse_agents.parsing_policy import LearningPolicy, ParsingPolicy

DECODERS = ("greedy", "beam", "sample")


class RankedParses(NamedTuple):
    """Several different parses of every sentence, the likeliest first.

    Attributes:
        transitions: [R, W, T] int64 derivations; all PAD where fewer than W parses were found.
        log_probs: [R, W] float. Of all decisions of a parse together, at the policy's temperature; -inf where fewer
            were found.
    """

    transitions: Tensor
    log_probs: Tensor


def decode(
    policy: ParsingPolicy,
    batch: Batch,
    how: str = "greedy",
    *,
    n: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Parse every sentence of a batch once.

    Args:
        policy: Any for ``greedy``; for the others one that has probabilities.
        batch: Of R rows.
        how: ``greedy`` takes the likeliest decision at every step; ``beam`` keeps the n likeliest unfinished parses;
            ``sample`` takes the likeliest of n samples.
        n: Width of the beam, or number of samples.
        generator: Source of randomness of samples, and of parsers that build random trees.

    Returns:
        [R, T] int64 derivations.

    Raises:
        ValueError: ``how`` is unknown, does not fit ``n``, or asks what this policy cannot do.
    """
    if how not in DECODERS:
        raise ValueError(f"unknown way to decode {how!r}; known: {', '.join(DECODERS)}")
    if how == "greedy":
        if n is not None:
            raise ValueError(f"how='greedy' finds one parse, got n={n}; leave n out, or use how='beam'")
        return policy.derive(batch, generator=generator, greedy=True)
    if n is None:
        raise ValueError(f"how={how!r} needs n, the number of parses to choose from; or use how='greedy'")
    if how == "beam":
        return beam_search(policy, batch, n).transitions[:, 0]
    return sample_n_best(policy, batch, n, generator=generator).transitions[:, 0]


@torch.no_grad()
def beam_search(policy: ParsingPolicy, batch: Batch, width: int) -> RankedParses:
    """Find likely parses by keeping, step by step, the ``width`` likeliest beginnings.

    All beginnings of a sentence have made equally many decisions, so that their probabilities compare. A beam that
    loses nothing (Catalan(n - 1) wide for shift-reduce) is exact. For a policy whose decisions are merges, two orders
    of the same merges are two parses.

    Args:
        policy: An `IncrementalPolicy`.
        batch: Of R rows.
        width: W.

    Raises:
        ValueError: ``width`` < 1, or the policy cannot parse one decision at a time.
    """
    if width < 1:
        raise ValueError(f"a beam must be at least 1 wide, got width = {width}")
    if not isinstance(policy, IncrementalPolicy):
        raise ValueError(
            f"how='beam' needs a policy that can parse one decision at a time, {type(policy).__name__} cannot; "
            "use how='greedy'"
        )
    parses = policy.incremental(batch)
    rows = len(batch.lengths)
    scores: Tensor | None = None  # [R, W'] of what is kept, W' <= W
    while True:
        there = parses.distribution()
        log_probs = there.log_probs.masked_fill(~there.legal, -math.inf)  # [R * W', A]
        n_actions = log_probs.shape[1]
        if scores is None:
            scores = log_probs.new_zeros(rows, 1)
        alive = scores > -math.inf
        if not bool((alive & ~there.finished.view_as(scores)).any()):
            break
        # A finished parse goes on by doing nothing, which is sure.
        nothing = torch.where(there.finished, 0.0, -math.inf).to(log_probs.dtype).unsqueeze(1)
        reached = scores.unsqueeze(2) + torch.cat((log_probs, nothing), dim=1).view(*scores.shape, -1)
        reached = reached.flatten(1)  # [R, W' (A + 1)]
        kept = scores.shape[1]
        scores, best = reached.topk(min(width, reached.shape[1]), dim=1)
        parents = best // (n_actions + 1) + kept * torch.arange(rows, device=best.device).unsqueeze(1)
        # What cannot be stays where it is, and is never looked at again.
        actions = torch.where(scores > -math.inf, best % (n_actions + 1), n_actions)
        parses.select(parents.flatten())
        parses.take(actions.flatten())
    kept = scores.shape[1]
    transitions = parses.transitions().view(rows, kept, -1)
    transitions = transitions.masked_fill((scores == -math.inf).unsqueeze(2), PAD)
    if kept == width:
        return RankedParses(transitions, scores)
    missing = width - kept
    return RankedParses(
        torch.nn.functional.pad(transitions, (0, 0, 0, missing), value=PAD),
        torch.nn.functional.pad(scores, (0, missing), value=-math.inf),
    )


@torch.no_grad()
def sample_n_best(
    policy: ParsingPolicy, batch: Batch, n: int, *, generator: torch.Generator | None = None
) -> RankedParses:
    """Sample ``n`` parses of every sentence, drop repetitions, and sort them by their probability.

    Args:
        policy: A `LearningPolicy`.
        batch: Of R rows.
        n: W.
        generator: Source of randomness.

    Raises:
        ValueError: ``n`` < 1, or the policy has no probabilities.
    """
    if n < 1:
        raise ValueError(f"at least 1 parse must be sampled, got n = {n}")
    if not isinstance(policy, LearningPolicy):
        raise ValueError(
            f"how='sample' needs a policy with probabilities, {type(policy).__name__} has none; use how='greedy'"
        )
    rows = len(batch.lengths)
    rollout = policy.sample(batch.repeat(n), generator=generator)
    assert rollout.log_probs is not None
    transitions, log_probs = rollout.transitions.view(rows, n, -1), rollout.log_probs.sum(1).view(rows, n)
    log_probs, order = log_probs.sort(dim=1, descending=True, stable=True)
    transitions = transitions.gather(1, order.unsqueeze(2).expand_as(transitions))
    # A repetition is one that a likelier parse equals.
    repeats = torch.zeros_like(order, dtype=torch.bool)
    for k in range(1, n):
        repeats[:, k] = (transitions[:, :k] == transitions[:, k : k + 1]).all(2).any(1)
    log_probs, order = log_probs.masked_fill(repeats, -math.inf).sort(dim=1, descending=True, stable=True)
    transitions = transitions.masked_fill(repeats.unsqueeze(2), PAD)
    return RankedParses(transitions.gather(1, order.unsqueeze(2).expand_as(transitions)), log_probs)
