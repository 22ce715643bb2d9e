"""A policy that reads words at the boundaries of the stack's items: no composition, so that it is cheap to run."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from rlparse import PAD
from rlparse.corpora.batching import Batch
from rlparse.lockstep import SHIFT
from rlparse_agents.boundaries import BoundaryReader, boundaries, node_marks
from rlparse_agents.boundary_sampling import PlayedBoundaries, play_boundaries
from rlparse_agents.catalan_prior import with_catalan_prior
from rlparse_agents.distribution import MaskedDistribution
from rlparse_agents.parsing_policy import Judgement, LearningPolicy
from rlparse_agents.partial_boundaries import PartialBoundaryParses
from rlparse_agents.rollout import Rollout, parser_sizes
from rlparse_agents.sampling import Draw, drawing
from rlparse_agents.step_lstm import run_by_length


class BoundaryPolicy(LearningPolicy):
    """Choose SHIFT or REDUCE from the words at the ends of the two topmost items of the stack and the next word.

    What is read tells two kinds of states apart that words alone cannot: whether each of the two items is a phrase, and
    whether its right child is. All weights are the policy's own.

        hidden = relu(W [words; kinds] + b), through an LSTM over the steps if it is recurrent; logits = V hidden + c

    Reference: the words are those of Cross & Huang 2016, "Span-Based Constituency Parsing with a Structure-Label
    System", where a span is known by its boundaries, too.

    Args:
        observation_space: Of `ShiftReduceEnv` with symbolic observations.
        action_space: ``Discrete(2)``.
        lr_schedule: Unused; Stable-Baselines3 passes it. Optimisers belong to the algorithm.
        n_tokens: Size of the vocabulary.
        embedding_size: Width of the policy's own embeddings.
        embedding_std: Standard deviation of the untrained word embeddings. With small ones (0.1) the policy begins with
            rules for all words alike, and learns exceptions where the reward asks for them.
        hidden_size: Width of the hidden layer, of the LSTM over steps, and of each way of the one over words.
        bilstm: Read words in their context, through a bidirectional LSTM over the sentence.
        recurrent: Remember earlier steps, through an LSTM.
        catalan_prior: Add the log-odds under which an untrained policy is uniform over binary trees.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Any = None,
        *,
        n_tokens: int,
        embedding_size: int = 50,
        embedding_std: float = 1.0,
        hidden_size: int = 50,
        bilstm: bool = False,
        recurrent: bool = False,
        catalan_prior: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space)
        del lr_schedule
        self._options = {
            "n_tokens": n_tokens,
            "embedding_size": embedding_size,
            "embedding_std": embedding_std,
            "hidden_size": hidden_size,
            "bilstm": bilstm,
            "recurrent": recurrent,
            "catalan_prior": catalan_prior,
        }
        self.catalan_prior = catalan_prior
        self.reader = BoundaryReader(
            n_tokens, embedding_size, hidden_size, embedding_std=embedding_std, bilstm=bilstm
        )
        self.lstm = nn.LSTM(hidden_size, hidden_size, batch_first=True) if recurrent else None
        self.head = nn.Linear(hidden_size, 2)
        with torch.no_grad():  # an untrained policy has no preference but its prior
            self.head.weight.zero_()
            self.head.bias.zero_()

    def derive(
        self, batch: Batch, *, generator: torch.Generator | None = None, greedy: bool = False
    ) -> Tensor:
        """Parse every sentence of a batch; see `ParsingPolicy.derive`."""
        draw = self.head.weight.new_zeros if greedy else drawing(generator, self.device, self.temperature)
        return self._play(batch, draw).transitions

    def sample(self, batch: Batch, *, generator: torch.Generator | None = None) -> Rollout:
        """Parse every sentence of a batch and keep what an update needs; see `LearningPolicy.sample`."""
        played = self._play(batch, drawing(generator, self.device, self.temperature))
        rollout = Rollout.of(batch.tokens, batch.lengths, played.transitions)
        for_chosen = torch.where(played.transitions == SHIFT, played.shift_odds, -played.shift_odds)
        log_probs = F.logsigmoid(for_chosen / self.temperature)
        free = rollout.trace.legal.all(2)
        return rollout._replace(log_probs=log_probs.masked_fill_(~free, 0.0))

    def judge(self, rollout: Rollout) -> Judgement:
        """Give the distribution before every step of known derivations; see `LearningPolicy.judge`."""
        trace = rollout.trace
        shifted, stack_sizes = parser_sizes(rollout.transitions)
        read = boundaries(node_marks(trace.children), trace.tops, shifted)
        hidden = self.reader(rollout.tokens, trace.lengths, read)
        lstm = self.lstm
        if lstm is not None:
            rows, n_steps, width = hidden.shape
            index = torch.arange(rows * n_steps, device=hidden.device).view(rows, n_steps, 1)
            hidden = run_by_length(
                lambda inputs: lstm(inputs)[0], hidden.view(-1, width), index, trace.lengths
            )
        logits = self.head(hidden)
        if self.catalan_prior:
            logits = with_catalan_prior(logits, stack_sizes, trace.lengths.unsqueeze(1) - shifted)
        return Judgement(MaskedDistribution(logits / self.temperature, trace.legal), hidden)

    @torch.no_grad()
    def incremental(self, batch: Batch) -> PartialBoundaryParses:
        """Begin to parse a batch one transition at a time; see `IncrementalPolicy.incremental`."""
        return self._begin(batch.tokens, batch.lengths)

    def predict(
        self,
        observation: np.ndarray[Any, np.dtype[Any]] | dict[str, np.ndarray[Any, np.dtype[Any]]],
        state: tuple[np.ndarray[Any, np.dtype[Any]], ...] | None = None,
        episode_start: np.ndarray[Any, np.dtype[Any]] | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray[Any, np.dtype[Any]], tuple[np.ndarray[Any, np.dtype[Any]], ...] | None]:
        """Choose actions from environment observations, whose transitions so far say all that is needed.

        Args:
            observation: Of one symbolic `ShiftReduceEnv` or of a vector of n.
            state: Handed back as it is.
            episode_start: Not needed.
            deterministic: Take the likeliest transition.

        Returns:
            Actions [n] (or one, for one environment) int64, and ``state``.
        """
        self.set_training_mode(False)
        tensors, vectorised = self.obs_to_tensor(cast(dict[str, np.ndarray[Any, np.dtype[Any]]], observation))
        chosen = self._predict(tensors, deterministic).cpu().numpy()
        return (chosen if vectorised else chosen.squeeze(0)), state

    @torch.no_grad()
    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        history = observation["transitions"].long()
        parses = self._begin(observation["tokens"].long(), observation["length"].long().flatten())
        for t in range(int((history != PAD).sum(1).max())):
            parses.take(history[:, t])
        there = parses.distribution()
        return there.mode() if deterministic else there.sample()

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """What `BasePolicy.save` keeps beside the weights."""
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            **self._options,
        }

    def _begin(self, tokens: Tensor, lengths: Tensor) -> PartialBoundaryParses:
        return PartialBoundaryParses(
            tokens,
            lengths,
            self.reader,
            self.lstm,
            self.head,
            temperature=self.temperature,
            catalan_prior=self.catalan_prior,
        )

    @torch.no_grad()
    def _play(self, batch: Batch, draw: Draw) -> PlayedBoundaries:
        network = self.reader, self.lstm, self.head
        return play_boundaries(batch.tokens, batch.lengths, *network, draw, catalan_prior=self.catalan_prior)
