"""SPINN's Tracker as a policy: parameters of its own, read from the parser's buffer and stack."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlparse import PAD, lockstep
from rlparse.corpora.batching import Batch
from rlparse.lockstep import REDUCE
from rlparse.models.composition import build_composition
from rlparse.models.nli_model import NLIModel
from rlparse.models.stack_machine import Encoding, StackMachine, distinct_words
from rlparse.models.tracker import Tracker
from rlparse_agents.catalan_prior import with_catalan_prior
from rlparse_agents.distribution import MaskedDistribution
from rlparse_agents.graphs import PlayGraphs
from rlparse_agents.parsing_policy import Judgement, LearningPolicy
from rlparse_agents.partial_tracker import PartialTrackerParses
from rlparse_agents.rollout import Rollout, Seen, parser_sizes
from rlparse_agents.sampling import Draw, Played, Reading, drawing, play_dense, play_dropping, read
from rlparse_agents.step_lstm import run_by_length

SAMPLERS = ("auto", "dropping", "dense", "graph")

PolicyState = tuple[np.ndarray[Any, np.dtype[Any]], ...]


class TrackerPolicy(LearningPolicy):
    """Choose SHIFT or REDUCE from a Tracker over buffer front and stack tops.

    By default syntax and semantics keep apart: the policy embeds and composes with weights of its own. With
    ``reads="encoder"`` it looks at the classifier's vectors instead, through a detach.

    Args:
        observation_space: Of `ShiftReduceEnv` with symbolic observations.
        action_space: ``Discrete(2)``.
        lr_schedule: Unused; Stable-Baselines3 passes it. Optimisers belong to the algorithm.
        n_tokens: Size of the vocabulary.
        embedding_size: Width of the policy's own embeddings.
        hidden_size: Width of its own composition.
        tracker_size: Width of its LSTM.
        composition: ``tree_rnn``, ``tree_lstm`` or ``gated``.
        catalan_prior: Add the log-odds under which an untrained policy is uniform over binary trees.
        reads: ``own`` or ``encoder``.
        encoder: The model whose vectors are read; needed for ``reads="encoder"``.
        sampler: How parses are sampled, which changes how fast they come but not which come: ``dropping`` leaves
            finished rows out and composes only what REDUCEs, ``dense`` does all rows at every step, ``graph`` is the
            same replayed as a CUDA graph, and ``auto`` takes ``graph`` on CUDA and ``dropping`` elsewhere.

    Raises:
        ValueError: ``reads`` or ``sampler`` is unknown, or ``encoder`` is missing where it is needed.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Any = None,
        *,
        n_tokens: int,
        embedding_size: int = 50,
        hidden_size: int = 50,
        tracker_size: int = 50,
        composition: str = "tree_lstm",
        catalan_prior: bool = True,
        reads: str = "own",
        encoder: NLIModel | None = None,
        sampler: str = "auto",
    ) -> None:
        super().__init__(observation_space, action_space)
        del lr_schedule
        if reads not in ("own", "encoder"):
            raise ValueError(f"reads must be 'own' or 'encoder', got {reads!r}")
        if sampler not in SAMPLERS:
            raise ValueError(f"unknown sampler {sampler!r}; known: {', '.join(SAMPLERS)}")
        if reads == "encoder" and encoder is None:
            raise ValueError(
                "reads='encoder' needs the model whose vectors to read; pass encoder= or reads='own'"
            )
        self._options = {
            "n_tokens": n_tokens,
            "embedding_size": embedding_size,
            "hidden_size": hidden_size,
            "tracker_size": tracker_size,
            "composition": composition,
            "catalan_prior": catalan_prior,
            "reads": reads,
            "encoder": encoder,
            "sampler": sampler,
        }
        self.reads = reads
        self.sampler = sampler
        self.catalan_prior = catalan_prior
        # In a tuple, so that the classifier's weights are not registered as the policy's own.
        self._encoder = (encoder,)
        self._graphs = PlayGraphs()
        if encoder is not None and reads == "encoder":
            if encoder.machine.tracker is not None:
                raise ValueError(
                    "reads='encoder' cannot read a composition that is fed by a tracker; use reads='own'"
                )
            width = encoder.machine.composition.hidden_size
        else:
            self.embedding = nn.Embedding(n_tokens, embedding_size, padding_idx=0)
            self.machine = StackMachine(build_composition(composition, embedding_size, hidden_size))
            width = hidden_size
        self.tracker = Tracker(width, tracker_size)
        self.head = nn.Linear(tracker_size, 2)
        with torch.no_grad():  # an untrained policy has no preference but its prior
            self.head.weight.zero_()
            self.head.bias.zero_()

    def derive(
        self, batch: Batch, *, generator: torch.Generator | None = None, greedy: bool = False
    ) -> Tensor:
        """Parse every sentence of a batch; see `ParsingPolicy.derive`."""
        draw = self.head.weight.new_zeros if greedy else drawing(generator, self.device, self.temperature)
        return self._play(batch, draw).transitions()

    def sample(self, batch: Batch, *, generator: torch.Generator | None = None) -> Rollout:
        """Parse every sentence of a batch and keep what an update needs; see `LearningPolicy.sample`."""
        played = self._play(batch, drawing(generator, self.device, self.temperature))
        transitions = played.transitions()
        trace = lockstep.trace(transitions, batch.lengths)
        distribution = MaskedDistribution(played.logits() / self.temperature, trace.legal)
        log_probs = distribution.log_prob(transitions)
        seen = played.seen() if self.reads == "encoder" else None
        return Rollout(batch.tokens, transitions, trace, log_probs, seen)

    def judge(self, rollout: Rollout) -> Judgement:
        """Give the distribution before every step of known derivations; see `LearningPolicy.judge`."""
        trace = rollout.trace
        vectors, slots = self._see(rollout) if rollout.seen is None else rollout.seen
        states = run_by_length(self.tracker, vectors, slots, trace.lengths)
        logits = self.head(states)
        if self.catalan_prior:
            shifted, stack_sizes = parser_sizes(rollout.transitions)
            logits = with_catalan_prior(logits, stack_sizes, trace.lengths.unsqueeze(1) - shifted)
        return Judgement(MaskedDistribution(logits / self.temperature, trace.legal), states)

    def predict(
        self,
        observation: np.ndarray[Any, np.dtype[Any]] | dict[str, np.ndarray[Any, np.dtype[Any]]],
        state: PolicyState | None = None,
        episode_start: np.ndarray[Any, np.dtype[Any]] | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray[Any, np.dtype[Any]], PolicyState | None]:
        """Choose actions from environment observations.

        The recurrent state is (node table, tracker hidden, tracker cell, steps read); it is rebuilt from the
        observation's transitions wherever it is missing or belongs to another sentence.

        Args:
            observation: Of one symbolic `ShiftReduceEnv` or of a vector of n.
            state: As returned by the previous call, or None.
            episode_start: [n] bool. Where True, the state is dropped.
            deterministic: Take the likeliest transition.

        Returns:
            Actions [n] (or one, for one environment) int64, and the new state.
        """
        self.set_training_mode(False)
        tensors, vectorised = self.obs_to_tensor(cast(dict[str, np.ndarray[Any, np.dtype[Any]]], observation))
        seen = cast(dict[str, Tensor], tensors)
        with torch.no_grad():
            actions, state = self._advance(seen, state, episode_start, deterministic)
        chosen = actions.cpu().numpy()
        return (chosen if vectorised else chosen.squeeze(0)), state

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """What `BasePolicy.save` keeps beside the weights."""
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            **self._options,
        }

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        actions, _ = self._advance(observation, None, None, deterministic)
        return actions

    def _advance(
        self,
        seen: dict[str, Tensor],
        state: PolicyState | None,
        episode_start: np.ndarray[Any, np.dtype[Any]] | None,
        deterministic: bool,
    ) -> tuple[Tensor, PolicyState]:
        tokens, history = seen["tokens"].long(), seen["transitions"].long()
        lengths = seen["length"].long().flatten()
        rows, n_tokens = tokens.shape
        nothing = 2 * n_tokens - 1
        embedding, machine = self._reading()
        cell = machine.composition
        count = (history != PAD).sum(1)  # [n] transitions so far
        # What each row saw before every step so far: integers only, cheap to replay.
        parser = lockstep.init(lengths, n_tokens)
        tops = []
        for t in range(int(count.max()) + 1):
            tops.append(lockstep.tops(parser))
            if t < history.shape[1]:
                lockstep.apply_(parser, history[:, t])
        if state is None:
            table = embedding.weight.new_zeros(rows, nothing + 1, cell.state_size)
            hidden, memory = self.tracker.initial(rows, table)
            read = torch.zeros(rows, dtype=torch.int64, device=self.device)
        else:
            table, hidden, memory, read = (
                torch.as_tensor(part, device=self.device).clone() for part in state
            )
        fresh = (count == 0) | (read > count)
        if episode_start is not None:
            fresh |= torch.as_tensor(episode_start, device=self.device)
        read[fresh] = 0
        new = (read == 0).nonzero().squeeze(1)
        hidden[new], memory[new] = 0.0, 0.0
        table[new] = 0.0
        table[new, :n_tokens] = cell.leaf(embedding(tokens[new]))
        while bool((read <= count).any()):
            for t in sorted(set(read[read <= count].tolist())):
                due = ((read == t) & (read <= count)).nonzero().squeeze(1)
                if t > 0:  # first carry out the transition before this step
                    before, last = tops[t - 1][due], history[due, t - 1]
                    did = (last == REDUCE).nonzero().squeeze(1)
                    node = n_tokens + (history[due, : t - 1] == REDUCE).sum(1)
                    left = table[due[did], before[did, 2]]
                    table[due[did], node[did]] = cell(left, table[due[did], before[did, 1]])
                slots = torch.where(tops[t][due] >= 0, tops[t][due], nothing)
                inputs = cell.hidden(table[due.unsqueeze(1), slots]).flatten(1)
                hidden[due], memory[due] = self.tracker.step(inputs, (hidden[due], memory[due]))
                read[due] = t + 1
        stack_sizes = 2 * (history == 0).sum(1) - count
        buffer_sizes = lengths - (history == 0).sum(1)
        logits = self.head(hidden)
        if self.catalan_prior:
            logits = with_catalan_prior(logits, stack_sizes, buffer_sizes)
        distribution = MaskedDistribution(logits / self.temperature, seen["action_mask"].bool())
        actions = distribution.mode() if deterministic else distribution.sample()
        return actions, tuple(part.cpu().numpy() for part in (table, hidden, memory, read))

    @torch.no_grad()
    def incremental(self, batch: Batch) -> PartialTrackerParses:
        """Begin to parse a batch one transition at a time; see `IncrementalPolicy.incremental`."""
        embedding, machine = self._reading()
        leaves = machine.composition.leaf(embedding(batch.tokens))
        return PartialTrackerParses(
            leaves,
            batch.lengths,
            machine.composition,
            self.tracker,
            self.head,
            temperature=self.temperature,
            catalan_prior=self.catalan_prior,
        )

    def _see(self, rollout: Rollout) -> Seen:
        """Encode known derivations for what the tracker reads before every step."""
        trace = rollout.trace
        embedding, machine = self._reading()
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.reads == "own"):
            types, words = distinct_words(rollout.tokens, embedding.num_embeddings)
            encoding: Encoding = machine(embedding(types), trace, words)
        nothing = len(encoding.table) - 1
        slots = encoding.layout.position.gather(1, trace.tops.clamp_min(0).flatten(1)).view_as(trace.tops)
        return Seen(encoding.table, torch.where(trace.tops >= 0, slots, nothing))

    @torch.no_grad()
    def _play(self, batch: Batch, draw: Draw) -> Played:
        """Parse a batch in the way that was asked for."""
        tokens, lengths = batch.tokens, batch.lengths
        sampler = self.sampler
        if sampler == "auto":
            sampler = "graph" if tokens.is_cuda else "dropping"
        embedding, machine = self._reading()
        parts = embedding, machine.composition, self.tracker, self.head

        def reading(tokens: Tensor, lengths: Tensor) -> Reading:
            return read(tokens, lengths, *parts, catalan_prior=self.catalan_prior)

        if sampler == "graph":
            if not tokens.is_cuda:
                raise ValueError(
                    f"sampler='graph' replays CUDA graphs, the batch is on {tokens.device}; use sampler='auto'"
                )
            options = (self.catalan_prior,)
            return self._graphs.play(tokens, lengths, reading, draw, parts, options)
        return (play_dense if sampler == "dense" else play_dropping)(tokens, lengths, reading, draw)

    def _reading(self) -> tuple[nn.Embedding, StackMachine]:
        """Give whose embeddings and composition the tracker looks at."""
        encoder = self._encoder[0]
        if self.reads == "encoder" and encoder is not None:
            return encoder.embedding, encoder.machine
        return self.embedding, self.machine
