"""Unfinished parses of a policy that reads words at boundaries."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlparse import PAD, lockstep
from rlparse.lockstep import REDUCE, LockstepState
from rlparse_agents.boundaries import BoundaryReader, boundaries, edged, leaf_marks
from rlparse_agents.incremental import ShiftReduceParses


class PartialBoundaryParses(ShiftReduceParses):
    """Keep every node's mark, and the network's hidden vector where each row stands.

    Args:
        tokens: [R, N] int64.
        lengths: [R] int64.
        reader: The network's first layer.
        lstm: What reads it step by step, or None.
        head: From that to the logits of SHIFT and REDUCE.
        temperature: Divides the logits.
        catalan_prior: Add `lockstep.catalan_logits` to them.
    """

    def __init__(
        self,
        tokens: Tensor,
        lengths: Tensor,
        reader: BoundaryReader,
        lstm: nn.LSTM | None,
        head: nn.Linear,
        *,
        temperature: float,
        catalan_prior: bool,
    ) -> None:
        rows, n_tokens = tokens.shape
        self._shares = reader.shares(edged(tokens, lengths), lengths)
        nothing = head.weight.new_zeros(rows, head.in_features)
        vectors = {
            "words": self._shares.words,
            "marks": F.pad(leaf_marks(rows, n_tokens, tokens.device), (0, n_tokens - 1)),
            "hidden": nothing,
            "cell": nothing,
        }
        super().__init__(lengths, n_tokens, vectors, temperature=temperature, catalan_prior=catalan_prior)
        self._reader, self._lstm, self._head = reader, lstm, head
        self._look(torch.ones_like(lengths, dtype=torch.bool))

    def logits(self) -> Tensor:
        """See `ShiftReduceParses.logits`."""
        logits: Tensor = self._head(self.vectors["hidden"])
        return logits

    def follow(self, actions: Tensor, before: LockstepState) -> None:
        """Mark what was reduced, and read on in rows that moved."""
        marks = self.vectors["marks"]
        rows = (actions == REDUCE).nonzero().squeeze(1)
        _, right, left = (lockstep.tops(before)[rows] + 1).unbind(1)
        node = before.stack.shape[1] + 1 + before.n_reduced[rows]
        marks[rows, node] = marks[rows, left] // 4 * 4 + 1 + 2 * (marks[rows, right] % 2)
        self._look(actions != PAD)

    def _look(self, moved: Tensor) -> None:
        tops, shifted = lockstep.tops(self.parser).unsqueeze(1), self.parser.buffer_front.unsqueeze(1)
        read = boundaries(self.vectors["marks"], tops, shifted)
        shares = self._shares._replace(words=self.vectors["words"])
        hidden, before = self._reader.look(shares, read).squeeze(1), self.vectors["hidden"]
        if self._lstm is not None:
            cell = self.vectors["cell"]
            hidden, new = torch.lstm_cell(hidden, (before, cell), *self._lstm.all_weights[0])
            self.vectors["cell"] = torch.where(moved.unsqueeze(1), new, cell)
        self.vectors["hidden"] = torch.where(moved.unsqueeze(1), hidden, before)
