"""Parsers that do not learn: the trivial trees and gold, playing the same game as a policy."""

from __future__ import annotations

from typing import Any, cast

import torch
from gymnasium import spaces
from torch import Tensor

from rlparse import PAD
from rlparse.batched_trees import BRANCHINGS, Branching
from rlparse.corpora.batching import Batch
from rlparse.errors import CorpusError
from rlparse_agents.parsing_policy import ParsingPolicy
from rlparse_agents.rollout import uniform_trees

FIXED_PARSERS = (*BRANCHINGS, "random", "gold", "gold_or_right")


def fixed_derivations(batch: Batch, kind: str, generator: torch.Generator | None = None) -> Tensor:
    """Parse a batch without looking at its words.

    Args:
        batch: Of R rows.
        kind: ``left``, ``right``, ``balanced``; ``random`` (every tree equally likely, drawn anew at every call);
            ``gold``; ``gold_or_right`` (gold where there is one, else right-branching).
        generator: Source of randomness of ``random``.

    Returns:
        [R, T] int64 derivations.

    Raises:
        CorpusError: ``gold`` was asked for and a sentence has no gold parse.
        ValueError: The kind is unknown.
    """
    if kind not in FIXED_PARSERS:
        raise ValueError(f"unknown fixed parser {kind!r}; known: {', '.join(FIXED_PARSERS)}")
    n_tokens = batch.tokens.shape[1]
    if kind == "random":
        return uniform_trees(batch.lengths, n_tokens, generator)
    if kind == "gold":
        if not bool(batch.has_gold.all()):
            missing = int((~batch.has_gold).nonzero()[0])
            example = int(batch.indices[missing % batch.n_examples])
            raise CorpusError(
                f"parser 'gold' needs a gold parse for every sentence; sentence {missing // batch.n_examples} of "
                f"example {example} has none (keep parsed examples only with --corpus.parsed-only, or use "
                "'gold_or_right')"
            )
        return batch.gold.long()
    tree: Branching = "right" if kind == "gold_or_right" else cast(Branching, kind)
    transitions = BRANCHINGS[tree](batch.lengths, 2 * n_tokens - 1)
    if kind == "gold_or_right":
        transitions = torch.where(batch.has_gold.unsqueeze(1), batch.gold.long(), transitions)
    return transitions


class FixedTreePolicy(ParsingPolicy):
    """A policy without parameters that builds one kind of tree: the controls of every experiment.

    Args:
        observation_space: Of `ShiftReduceEnv` with symbolic observations.
        action_space: ``Discrete(2)``.
        lr_schedule: Unused; Stable-Baselines3 passes it.
        kind: See `fixed_derivations`.

    Raises:
        ValueError: The kind is unknown.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Any = None,
        *,
        kind: str,
    ) -> None:
        super().__init__(observation_space, action_space)
        del lr_schedule
        if kind not in FIXED_PARSERS:
            raise ValueError(f"unknown fixed parser {kind!r}; known: {', '.join(FIXED_PARSERS)}")
        self.kind = kind

    def derive(
        self, batch: Batch, *, generator: torch.Generator | None = None, greedy: bool = False
    ) -> Tensor:
        """Parse every sentence of a batch; ``greedy`` makes no difference. See `fixed_derivations`."""
        del greedy
        return fixed_derivations(batch, self.kind, generator)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """What `BasePolicy.save` keeps."""
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "kind": self.kind,
        }

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        """Play the tree in an environment: left, right or balanced."""
        del deterministic
        if self.kind not in BRANCHINGS:
            raise ValueError(
                f"a {self.kind!r} parser cannot play from observations alone; use left, right or balanced"
            )
        history = observation["transitions"].long()
        count = (history != PAD).sum(1, keepdim=True)
        whole = BRANCHINGS[self.kind](observation["length"].long().flatten(), history.shape[1])
        return whole.gather(1, count).squeeze(1)
