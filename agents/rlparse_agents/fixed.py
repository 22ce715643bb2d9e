"""Parsers that do not learn: the trivial trees and gold, playing the same game as a policy."""

from __future__ import annotations

from typing import Any, cast

import torch
from gymnasium import spaces
from torch import Tensor

from rlparse import PAD
from rlparse.batched_trees import BRANCHINGS, Branching, shuffled_trees
from rlparse.corpora.batching import Batch
from rlparse.errors import CorpusError
from rlparse_agents.parsing_policy import ParsingPolicy
from rlparse_agents.rollout import uniform_trees
from rlparse_agents.sentence_keys import sentence_keys

FIXED_PARSERS = (*BRANCHINGS, "random", "random_per_epoch", "gold", "gold_or_right", "none")

_BRANCHING_OF: dict[str, Branching] = {"gold_or_right": "right", "none": "left"}
"""What kinds of another name build where they have nothing better."""


def fixed_derivations(
    batch: Batch, kind: str, generator: torch.Generator | None = None, *, seed: int = 0
) -> Tensor:
    """Parse a batch without looking at its words.

    Args:
        batch: Of R rows.
        kind: ``left``, ``right``, ``balanced``; ``random`` (one tree for every sentence, every tree equally likely,
            which stays the same however often, in whatever batch and on whatever device the sentence comes);
            ``random_per_epoch`` (the same, but drawn anew at every call); ``gold``; ``gold_or_right`` (gold where there
            is one, else right-branching); ``none`` (for encoders that read no trees: left-branching ones, as some
            derivation has to be there).
        generator: Source of randomness of ``random_per_epoch``.
        seed: Of ``random``. With a sentence's example and side it decides its tree.

    Returns:
        [R, T] int64 derivations.

    Raises:
        CorpusError: ``gold`` was asked for and a sentence has no gold parse.
        ValueError: The kind is unknown.
    """
    if kind not in FIXED_PARSERS:
        raise ValueError(f"unknown fixed parser {kind!r}; known: {', '.join(FIXED_PARSERS)}")
    n_tokens = batch.tokens.shape[1]
    n_steps = 2 * n_tokens - 1
    if kind == "random":
        return shuffled_trees(sentence_keys(batch, n_steps, seed), batch.lengths)
    if kind == "random_per_epoch":
        return uniform_trees(batch.lengths, batch.tokens.shape[1], generator)
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
    tree = _BRANCHING_OF.get(kind) or cast(Branching, kind)
    transitions = BRANCHINGS[tree](batch.lengths, n_steps)
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
        seed: Of ``random``.

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
        seed: int = 0,
    ) -> None:
        super().__init__(observation_space, action_space)
        del lr_schedule
        if kind not in FIXED_PARSERS:
            raise ValueError(f"unknown fixed parser {kind!r}; known: {', '.join(FIXED_PARSERS)}")
        self.kind = kind
        self.seed = seed

    def derive(
        self, batch: Batch, *, generator: torch.Generator | None = None, greedy: bool = False
    ) -> Tensor:
        """Parse every sentence of a batch; ``greedy`` makes no difference. See `fixed_derivations`."""
        del greedy
        return fixed_derivations(batch, self.kind, generator, seed=self.seed)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """What `BasePolicy.save` keeps."""
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "kind": self.kind,
            "seed": self.seed,
        }

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        """Play the tree in an environment: left, right or balanced (or none, which is left)."""
        del deterministic
        kind = "left" if self.kind == "none" else self.kind
        if kind not in BRANCHINGS:
            raise ValueError(
                f"a {self.kind!r} parser cannot play from observations alone; use left, right or balanced"
            )
        history = observation["transitions"].long()
        count = (history != PAD).sum(1, keepdim=True)
        whole = BRANCHINGS[kind](observation["length"].long().flatten(), history.shape[1])
        return whole.gather(1, count).squeeze(1)
