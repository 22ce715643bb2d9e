"""The straight-through Gumbel parser: it encodes by the trees that it chooses, and learns from the classifier alone."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlparse import lockstep
from rlparse.corpora.batching import Batch
from rlparse.merges import derivations
from rlparse.models.gumbel_tree import GumbelTrees, Noise, gumbel_noise, gumbel_trees
from rlparse.models.nli_model import NLIModel
from rlparse.models.stack_machine import distinct_words
from rlparse_agents.parsing_policy import Encoded, EncodingPolicy
from rlparse_agents.planning import PlanningPolicy
from rlparse_agents.rollout import Rollout


class GumbelPolicy(PlanningPolicy, EncodingPolicy):
    """Merge what the classifier's own composition makes best of, and pass the loss's gradient straight through.

    A query vector scores what the composition makes of every pair of neighbours; Gumbel noise is added while parses
    are sampled, and none in greedy ones. See `rlparse.models.gumbel_tree` for the estimator. There is no score
    function: classifier and query learn from one cross-entropy.

    Reference: Choi, Yoo & Lee 2018, "Learning to Compose Task-Specific Tree Structures".

    Args:
        observation_space: Of `ShiftReduceEnv` with symbolic observations.
        action_space: ``Discrete(2)``.
        lr_schedule: Unused; Stable-Baselines3 passes it. Optimisers belong to the algorithm.
        model: The classifier whose embeddings and composition are used.

    Attributes:
        temperature: Of the softmax through which the gradient goes, as published: softmax((scores + noise) /
            temperature). Which trees are sampled does not depend on it.

    Raises:
        ValueError: The model reads no trees, or its composition is fed by a tracker.
    """

    chooses_transitions: ClassVar[bool] = False
    judges: ClassVar[bool] = False

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Any = None,
        *,
        model: NLIModel,
    ) -> None:
        super().__init__(observation_space, action_space)
        del lr_schedule
        if not model.reads_trees:
            raise ValueError(
                f"GumbelPolicy chooses trees for a model that composes along them, and architecture="
                f"{model.architecture!r} reads none; use architecture='tree'"
            )
        if model.machine.tracker is not None:
            raise ValueError(
                f"GumbelPolicy composes pairs that no tracker has seen, and the model has tracker_size="
                f"{model.machine.tracker.hidden_size}; use tracker_size=0, or SharedTrackerPolicy"
            )
        # In a tuple, so that the classifier's weights are not registered as the policy's own.
        self._model = (model,)
        self.query = nn.Parameter(0.01 * torch.randn(model.machine.composition.hidden_size))  # as published

    def derive(
        self, batch: Batch, *, generator: torch.Generator | None = None, greedy: bool = False
    ) -> Tensor:
        """Parse every sentence of a batch; see `ParsingPolicy.derive`."""
        with torch.no_grad():
            trees = self._merge(batch, None if greedy else gumbel_noise(generator))
        return derivations(trees.merges, batch.lengths)

    def parse_and_encode(
        self, batch: Batch, *, generator: torch.Generator | None = None, gold: bool = False
    ) -> Encoded:
        """Parse and encode every sentence of a batch; see `EncodingPolicy.parse_and_encode`.

        The rollout's actions are positions of merges, [R, M] with M = N - 1. There is no judgement.

        Raises:
            ValueError: Gold derivations were asked for.
        """
        if gold:
            raise ValueError(
                "gold=True has nothing to teach a GumbelPolicy, which learns from the classifier alone; use "
                "FixedTreePolicy(kind='gold') for gold trees, or SharedTrackerPolicy to learn them"
            )
        trees = self._merge(batch, gumbel_noise(generator))
        transitions = derivations(trees.merges, batch.lengths)
        trace = lockstep.trace(transitions, batch.lengths)
        rollout = Rollout(batch.tokens, transitions, trace, actions=trees.merges)
        return Encoded(rollout, self._model[0].shown(trees.roots), None)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """What `BasePolicy.save` keeps beside the weights."""
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "model": self._model[0],
        }

    def _merge(self, batch: Batch, noise: Noise | None) -> GumbelTrees:
        model = self._model[0]
        types, words = distinct_words(batch.tokens, model.embedding.num_embeddings)
        return gumbel_trees(
            model.machine.composition,
            self.query,
            model.embed(types),
            batch.lengths,
            words,
            temperature=self.temperature,
            noise=noise,
        )
