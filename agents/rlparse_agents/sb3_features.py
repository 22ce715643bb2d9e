"""The Tracker's view of the parser as a features extractor for the policies of Stable-Baselines3."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from rlparse import PAD, lockstep
from rlparse.models.composition import build_composition
from rlparse.models.stack_machine import StackMachine, distinct_words

READ = ("tokens", "length", "transitions", "stack_spans", "stack_size", "buffer_front")
"""Parts of the symbolic observation that are looked at."""


class TrackerFeatures(BaseFeaturesExtractor):
    """Show a policy what SPINN's Tracker reads: the buffer's front and the two tops of the stack, composed.

        [h(buffer front); h(stack top); h(second of stack)], zeros where there is none

    The vectors come from embeddings and a composition that belong to the policy and learn with it. An observation
    tells everything, so nothing is remembered between steps: the history of each of the two subtrees is a slice of the
    sentence's transitions, and both are composed anew, those of all observations together by level.

        PPO("MultiInputPolicy", env, policy_kwargs={"features_extractor_class": TrackerFeatures, "ortho_init": False})

    ``ortho_init=False`` keeps the composition as it was initialised (a TreeLSTM's forget gates begin open). Under a
    recurrent policy this is SPINN's Tracker as a whole.

    Reference: Bowman et al. 2016, "A Fast Unified Model for Parsing and Sentence Understanding".

    Args:
        observation_space: Of symbolic observations.
        embedding_size: E.
        hidden_size: D of the composition; the features are 3 D numbers.
        composition: ``tree_rnn``, ``tree_lstm`` or ``gated``.

    Raises:
        ValueError: The observations are not symbolic.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        embedding_size: int = 32,
        hidden_size: int = 32,
        composition: str = "tree_lstm",
    ) -> None:
        parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {}
        missing = [key for key in READ if key not in parts]
        if missing:
            raise ValueError(
                "TrackerFeatures reads symbolic observations (observation='symbolic'), this space lacks "
                f"{', '.join(missing)}: {observation_space}"
            )
        super().__init__(observation_space, features_dim=3 * hidden_size)
        tokens = parts["tokens"]
        assert isinstance(tokens, spaces.Box)
        self.embedding = nn.Embedding(int(tokens.high.max()) + 1, embedding_size, padding_idx=0)
        self.machine = StackMachine(build_composition(composition, embedding_size, hidden_size))

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Compose what the Tracker reads.

        Args:
            observations: Of n parsers, each [n, width] of any type, as Stable-Baselines3 hands them over. A row of
                zeros, with which recurrent policies pad, is a parser without words.

        Returns:
            [n, 3 D] float.
        """
        seen = {key: observations[key].long() for key in READ}
        lengths, sizes, fronts = (
            seen[key].flatten() for key in ("length", "stack_size", "buffer_front")
        )  # [n] each
        steps = 2 * fronts - sizes
        spans = seen["stack_spans"].view(len(lengths), -1, 2)
        # Every part is a sentence of its own: where its words begin, how many there are, where its history ends.
        front = (fronts < lengths).nonzero().squeeze(1)
        parts = [(front, fronts[front], torch.ones_like(front), torch.ones_like(front))]
        ends = steps
        for item in (0, 1):
            rows = (sizes > item).nonzero().squeeze(1)
            start, end = spans[rows, sizes[rows] - 1 - item].unbind(1)
            parts.append((rows, start, end - start, ends[rows]))
            # Beneath a tree on the stack lies the one whose last transition came just before its first.
            ends = ends.index_add(0, rows, 2 * (start - end) + 1)
        owner, start, words, end = (torch.cat(column) for column in zip(*parts, strict=True))
        features: Tensor = self.embedding.weight.new_zeros(
            len(lengths), 3, self.machine.composition.hidden_size
        )
        if not len(owner):
            return features.flatten(1)
        place = torch.repeat_interleave(
            torch.arange(3, device=owner.device),
            torch.tensor([len(part[0]) for part in parts], device=owner.device),
        )
        tokens = _slices(seen["tokens"][owner], start, words, 0)
        taken = 2 * words - 1
        history = _slices(seen["transitions"][owner], end - taken, taken, PAD)
        history[: len(front), 0] = lockstep.SHIFT  # a word in the buffer has not been shifted yet
        types, which = distinct_words(tokens, self.embedding.num_embeddings)
        roots = self.machine(self.embedding(types), lockstep.trace(history, words), which).roots
        return features.index_put((owner, place), roots).flatten(1)


def _slices(rows: Tensor, starts: Tensor, sizes: Tensor, fill: int) -> Tensor:
    """Cut ``rows[i, starts[i] : starts[i] + sizes[i]]`` out of every row: [m, largest size], filled up behind."""
    offset = torch.arange(int(sizes.max()), device=rows.device)
    index = (starts.unsqueeze(1) + offset).clamp_max(rows.shape[1] - 1)
    return torch.where(offset < sizes.unsqueeze(1), rows.gather(1, index), fill)
