"""SPINN as it was published: the tracker that feeds the classifier's composition also chooses the transitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlparse import lockstep
from rlparse.corpora.batching import Batch
from rlparse.models.nli_model import NLIModel
from rlparse.models.stack_machine import Encoding, distinct_words
from rlparse_agents.catalan_prior import with_catalan_prior
from rlparse_agents.distribution import MaskedDistribution
from rlparse_agents.fixed import fixed_derivations
from rlparse_agents.parsing_policy import Encoded, EncodingPolicy, Judgement
from rlparse_agents.planning import PlanningPolicy
from rlparse_agents.rollout import Rollout, parser_sizes


class SharedTrackerPolicy(PlanningPolicy, EncodingPolicy):
    """Choose SHIFT or REDUCE from the hidden vectors of the classifier's own tracker.

    Only a linear map from those to the logits is the policy's. Whatever it learns from, by the score function
    (RL-SPINN) or from gold transitions (supervised SPINN), flows through tracker, composition and embeddings. Parses
    are encoded by the very pass that makes them, so that one backward serves both.

    Reference: Bowman et al. 2016, "A Fast Unified Model for Parsing and Sentence Understanding"; Williams, Drozdov &
    Bowman 2018, "Do Latent Tree Learning Models Identify Meaningful Structure in Sentences?", for RL-SPINN.

    Args:
        observation_space: Of `ShiftReduceEnv` with symbolic observations.
        action_space: ``Discrete(2)``.
        lr_schedule: Unused; Stable-Baselines3 passes it. Optimisers belong to the algorithm.
        model: The classifier, with ``tracker_size > 0``.
        catalan_prior: Add the log-odds under which an untrained policy is uniform over binary trees.

    Raises:
        ValueError: The model reads no trees, or has no tracker.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Any = None,
        *,
        model: NLIModel,
        catalan_prior: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space)
        del lr_schedule
        if not model.reads_trees:
            raise ValueError(
                f"SharedTrackerPolicy chooses trees for a model that composes along them, and architecture="
                f"{model.architecture!r} reads none; use architecture='tree'"
            )
        tracker = model.machine.tracker
        if tracker is None:
            raise ValueError(
                "SharedTrackerPolicy reads the classifier's own tracker, and the model has tracker_size=0; give it a "
                "tracker_size, or use TrackerPolicy, which has one of its own"
            )
        # In a tuple, so that the classifier's weights are not registered as the policy's own.
        self._model = (model,)
        self.catalan_prior = catalan_prior
        self.head = nn.Linear(tracker.hidden_size, 2)
        with torch.no_grad():  # an untrained policy has no preference but its prior
            self.head.weight.zero_()
            self.head.bias.zero_()

    def derive(
        self, batch: Batch, *, generator: torch.Generator | None = None, greedy: bool = False
    ) -> Tensor:
        """Parse every sentence of a batch; see `ParsingPolicy.derive`."""
        with torch.no_grad():
            _, transitions = self._play(
                batch, MaskedDistribution.mode if greedy else lambda it: it.sample(generator)
            )
        return transitions

    def parse_and_encode(
        self, batch: Batch, *, generator: torch.Generator | None = None, gold: bool = False
    ) -> Encoded:
        """Parse and encode every sentence of a batch; see `EncodingPolicy.parse_and_encode`.

        The judgement's states are the tracker's hidden vectors.

        Raises:
            CorpusError: Gold derivations were asked for and a sentence has none; a ValueError, too.
        """
        if gold:
            model = self._model[0]
            transitions = fixed_derivations(batch, "gold")
            types, words = distinct_words(batch.tokens, model.embedding.num_embeddings)
            trace = lockstep.trace(transitions, batch.lengths)
            encoding = model.machine(model.embed(types), trace, words)
        else:
            encoding, transitions = self._play(batch, lambda it: it.sample(generator))
        judgement = self._judge(encoding, transitions)
        log_probs = None
        if not gold:
            log_probs = judgement.distribution.log_prob(transitions).detach()
        rollout = Rollout(batch.tokens, transitions, encoding.trace, log_probs)
        return Encoded(rollout, self._model[0].shown(encoding.roots), judgement)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """What `BasePolicy.save` keeps beside the weights."""
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "model": self._model[0],
            "catalan_prior": self.catalan_prior,
        }

    def _play(self, batch: Batch, pick: Callable[[MaskedDistribution], Tensor]) -> tuple[Encoding, Tensor]:
        """Encode along transitions that are picked on the way."""
        model = self._model[0]

        def choose(hidden: Tensor, stack_sizes: Tensor, buffer_sizes: Tensor) -> Tensor:
            legal = torch.stack((buffer_sizes > 0, stack_sizes >= 2), dim=1)
            return pick(self._distribution(hidden, stack_sizes, buffer_sizes, legal))

        types, words = distinct_words(batch.tokens, model.embedding.num_embeddings)
        return model.machine.sample(model.embed(types), batch.lengths, choose, words)

    def _judge(self, encoding: Encoding, transitions: Tensor) -> Judgement:
        """Judge all steps of an encoding at once, with gradient."""
        states, trace = encoding.tracker, encoding.trace
        assert states is not None
        shifted, stack_sizes = parser_sizes(transitions)
        buffer_sizes = trace.lengths.unsqueeze(1) - shifted
        return Judgement(self._distribution(states, stack_sizes, buffer_sizes, trace.legal), states)

    def _distribution(
        self, hidden: Tensor, stack_sizes: Tensor, buffer_sizes: Tensor, legal: Tensor
    ) -> MaskedDistribution:
        logits = self.head(hidden)
        if self.catalan_prior:
            logits = with_catalan_prior(logits, stack_sizes, buffer_sizes)
        return MaskedDistribution(logits / self.temperature, legal)
