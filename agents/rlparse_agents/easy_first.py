"""Easy-first parsing as a policy: merge the neighbours that score best, with parameters of its own."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from rlparse import lockstep
from rlparse.corpora.batching import Batch
from rlparse.merges import derivations, lay_out_chart, legal_merges
from rlparse.models.chart import Merging, Prefer, compose_chart, merge
from rlparse.models.composition import Composition, build_composition
from rlparse.models.groups import real_tokens
from rlparse.models.stack_machine import distinct_words
from rlparse_agents.distribution import MaskedDistribution
from rlparse_agents.parsing_policy import Judgement, LearningPolicy
from rlparse_agents.planning import PlanningPolicy
from rlparse_agents.rollout import Rollout


class EasyFirstPolicy(PlanningPolicy, LearningPolicy):
    """Choose, among all pairs of neighbours, which to merge next.

    What the policy's composition makes of a pair is scored by a query vector; a softmax over the scores of all pairs
    is the distribution of the next merge, of n - 1 - k options before merge k:

        P(merge p) = softmax_p (q . h(compose(x_p, x_{p + 1})))

    Embeddings, composition and query are its own, so that syntax and semantics keep apart. Several orders of merges
    build one tree: a rollout's log-probabilities are of its order, and an untrained policy, which merges at random,
    prefers trees that many orders build, the balanced ones.

    Reference: Choi, Yoo & Lee 2018, "Learning to Compose Task-Specific Tree Structures", for the parser; Havrylov,
    Kruszewski & Joulin 2019, "Cooperative Learning of Disjoint Syntax and Semantics", for it as a policy. They take
    the states of the leaf LSTM as leaves; here its hidden vectors go through the composition's map of leaves.

    Args:
        observation_space: Of `ShiftReduceEnv` with symbolic observations.
        action_space: ``Discrete(2)``.
        lr_schedule: Unused; Stable-Baselines3 passes it. Optimisers belong to the algorithm.
        n_tokens: Size of the vocabulary.
        embedding_size: Width of the policy's own embeddings.
        hidden_size: Width of its own composition, and of the leaf LSTM.
        composition: ``tree_rnn``, ``tree_lstm`` or ``gated``.
        leaf_lstm: Read the sentence from left to right by an LSTM, whose hidden vectors stand for the words then.
    """

    chooses_transitions: ClassVar[bool] = False

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Any = None,
        *,
        n_tokens: int,
        embedding_size: int = 50,
        hidden_size: int = 50,
        composition: str = "tree_lstm",
        leaf_lstm: bool = False,
    ) -> None:
        super().__init__(observation_space, action_space)
        del lr_schedule
        self._options = {
            "n_tokens": n_tokens,
            "embedding_size": embedding_size,
            "hidden_size": hidden_size,
            "composition": composition,
            "leaf_lstm": leaf_lstm,
        }
        self.embedding = nn.Embedding(n_tokens, embedding_size, padding_idx=0)
        self.leaf_lstm = nn.LSTM(embedding_size, hidden_size, batch_first=True) if leaf_lstm else None
        self.composition: Composition = build_composition(
            composition, hidden_size if leaf_lstm else embedding_size, hidden_size
        )
        self.query = nn.Parameter(0.01 * torch.randn(hidden_size))  # as published: hardly any preference

    def derive(
        self, batch: Batch, *, generator: torch.Generator | None = None, greedy: bool = False
    ) -> Tensor:
        """Parse every sentence of a batch; see `ParsingPolicy.derive`."""
        merged = self._merge(batch, (lambda scores: scores) if greedy else self._drawing(generator))
        return derivations(merged.in_batch(merged.merges), batch.lengths)

    def sample(self, batch: Batch, *, generator: torch.Generator | None = None) -> Rollout:
        """Parse every sentence of a batch and keep what an update needs; see `LearningPolicy.sample`.

        The rollout's actions are positions of merges, [R, M] with M = N - 1.
        """
        merged = self._merge(batch, self._drawing(generator))
        actions = merged.in_batch(merged.merges)
        logits = merged.padded(merged.scores) / self.temperature
        legal = legal_merges(batch.lengths, batch.tokens.shape[1])
        log_probs = MaskedDistribution(logits, legal).log_prob(actions)
        transitions = derivations(actions, batch.lengths)
        trace = lockstep.trace(transitions, batch.lengths)
        return Rollout(batch.tokens, transitions, trace, log_probs, actions=actions)

    def judge(self, rollout: Rollout) -> Judgement:
        """Give the distribution before every merge of a rollout; see `LearningPolicy.judge`.

        All pairs that were neighbours at any time are composed by level, each once, and scored in one product.

        Raises:
            ValueError: The rollout has no merges.
        """
        if rollout.actions is None:
            raise ValueError(
                "an easy-first policy judges merges, and this rollout has only transitions; give it "
                "actions=rlparse.merges.merges_of(transitions)"
            )
        lengths = rollout.trace.lengths
        embeddings, words = self._leaves(rollout.tokens, lengths)
        chart = lay_out_chart(rollout.actions, lengths, words, len(embeddings))
        scores = torch.mv(compose_chart(self.composition, chart, embeddings), self.query)
        logits = scores.index_select(0, chart.candidates.flatten()).view(chart.candidates.shape)
        legal = legal_merges(lengths, rollout.tokens.shape[1])
        return Judgement(MaskedDistribution(logits / self.temperature, legal))

    def incremental(self, batch: Batch) -> PartialMerges:
        """Begin to parse a batch one merge at a time; see `rlparse_agents.incremental`."""
        return PartialMerges(self, batch)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """What `BasePolicy.save` keeps beside the weights."""
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            **self._options,
        }

    def _leaves(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Give the vectors of which leaves are made, [U, E], and which of them each token is, [R, N]."""
        if self.leaf_lstm is None:
            types, words = distinct_words(tokens, self.embedding.num_embeddings)
            return self.embedding(types), words
        # Several parses of a sentence stand side by side, and read the same.
        rows, copies = torch.cat((lengths.unsqueeze(1), tokens), dim=1).unique_consecutive(
            dim=0, return_inverse=True
        )
        lengths, tokens = rows[:, 0], rows[:, 1:]
        read, _ = self.leaf_lstm(self.embedding(tokens))
        is_token = torch.arange(tokens.shape[1], device=tokens.device) < lengths.unsqueeze(1)
        words = (is_token.flatten().cumsum(0) - 1).view(tokens.shape)
        return real_tokens(read, lengths), words[copies]

    @torch.no_grad()
    def _merge(self, batch: Batch, prefer: Prefer) -> Merging:
        embeddings, words = self._leaves(batch.tokens, batch.lengths)
        return merge(self.composition, self.query, embeddings, batch.lengths, words, prefer)

    def _drawing(self, generator: torch.Generator | None) -> Prefer:
        """Prefer at random: adding Gumbel noise to logits and taking the greatest is to sample from their softmax."""

        def prefer(scores: Tensor) -> Tensor:
            noise = torch.empty_like(scores).exponential_(generator=generator).log_()
            return scores / self.temperature - noise

        return prefer


class PartialMerges:
    """Parses by an easy-first policy that are made one merge at a time; see `rlparse_agents.incremental`.

    Every row keeps the states of its items and candidates in full, so that rows can be copied.

    Args:
        policy: Whose weights of now are read.
        batch: Of R rows.
    """

    @torch.no_grad()
    def __init__(self, policy: EasyFirstPolicy, batch: Batch) -> None:
        self.policy, self.lengths = policy, batch.lengths
        self.n_tokens = batch.tokens.shape[1]
        embeddings, words = policy._leaves(batch.tokens, batch.lengths)
        self.items = policy.composition.leaf(embeddings)[words]  # [R, n items, state_size]
        self.candidates = self._compose(self.items[:, :-1], self.items[:, 1:])
        self.merges = batch.lengths.new_empty(len(batch.lengths), 0)

    def distribution(self) -> MaskedDistribution:
        """Give what the policy thinks of every row's next merge: over [R] states of N - 1 positions."""
        logits = self.policy.composition.hidden(self.candidates) @ self.policy.query.detach()
        k, rest = self.merges.shape[1], self.candidates.shape[1]
        logits = F.pad(logits, (0, self.n_tokens - 1 - rest)) / self.policy.temperature
        number = torch.arange(self.n_tokens - 1, device=logits.device)
        return MaskedDistribution(logits, number < self.lengths.unsqueeze(1) - 1 - k)

    @torch.no_grad()
    def take(self, actions: Tensor) -> None:
        """Merge in every row at the position given; N - 1 leaves a row as it is.

        Args:
            actions: [R] int64.
        """
        self.merges = torch.cat((self.merges, actions.unsqueeze(1)), dim=1)
        last = self.candidates.shape[1] - 1
        place = actions.clamp_max(last).view(-1, 1, 1)
        number = torch.arange(last + 1, device=actions.device).view(1, -1, 1)
        kept = torch.where(number < place, self.items[:, :-1], self.items[:, 1:])
        self.items = torch.where(number == place, self.candidates, kept)
        self.candidates = torch.where(number[:, :-1] < place, self.candidates[:, :-1], self.candidates[:, 1:])
        rows = torch.arange(len(actions), device=actions.device)
        if last:
            for side in (-1, 0):  # the pairs on the left and on the right of the new item
                at = (actions + side).clamp(0, last - 1)
                self.candidates[rows, at] = self._compose(self.items[rows, at], self.items[rows, at + 1])

    def select(self, rows: Tensor) -> None:
        """Go on with some of the rows, as often as they are named.

        Args:
            rows: [R'] int64.
        """
        self.items, self.candidates = self.items[rows], self.candidates[rows]
        self.lengths, self.merges = self.lengths[rows], self.merges[rows]

    def transitions(self) -> Tensor:
        """Give the derivations of rows that are finished: [R, T] int64; anything in those that are not."""
        n_inner = self.n_tokens - 1
        rest = self.merges.new_full((len(self.merges), n_inner - self.merges.shape[1]), 0)
        merges = torch.cat((self.merges, rest), dim=1)
        left = (self.lengths.unsqueeze(1) - 1 - torch.arange(n_inner, device=merges.device)).clamp_min(1)
        return derivations(torch.minimum(merges, left - 1), self.lengths)

    def _compose(self, left: Tensor, right: Tensor) -> Tensor:
        """Compose pairs of states: [..., state_size] each."""
        shape = left.shape
        made: Tensor = self.policy.composition(left.reshape(-1, shape[-1]), right.reshape(-1, shape[-1]))
        return made.view(shape)
