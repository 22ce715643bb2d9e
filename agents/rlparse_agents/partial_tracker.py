"""Unfinished parses of a policy that is a tracker over buffer and stack."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlparse import PAD, lockstep
from rlparse.lockstep import REDUCE, LockstepState
from rlparse.models.composition import Composition
from rlparse.models.tracker import Tracker
from rlparse_agents.incremental import ShiftReduceParses


class PartialTrackerParses(ShiftReduceParses):
    """Keep every node's state, and the tracker's after it has read where each row stands.

    Args:
        leaves: [R, N, state_size] float.
        lengths: [R] int64.
        composition: What REDUCE computes.
        tracker: Reads the hidden vectors of the next token, the stack's top and the second beneath it.
        head: From the tracker's hidden vector to the logits of SHIFT and REDUCE.
        temperature: Divides the logits.
        catalan_prior: Add `lockstep.catalan_logits` to them.
    """

    def __init__(
        self,
        leaves: Tensor,
        lengths: Tensor,
        composition: Composition,
        tracker: Tracker,
        head: nn.Linear,
        *,
        temperature: float,
        catalan_prior: bool,
    ) -> None:
        rows, n_tokens = leaves.shape[:2]
        hidden, cell = tracker.initial(rows, leaves)
        # Node i is in row i; one row more, of zeros, is what stands where there is nothing.
        table = F.pad(leaves, (0, 0, 0, n_tokens))
        super().__init__(
            lengths,
            n_tokens,
            {"table": table, "hidden": hidden, "cell": cell},
            temperature=temperature,
            catalan_prior=catalan_prior,
        )
        self._composition, self._tracker, self._head = composition, tracker, head
        self._look(torch.ones_like(lengths, dtype=torch.bool))

    def logits(self) -> Tensor:
        """See `ShiftReduceParses.logits`."""
        logits: Tensor = self._head(self.vectors["hidden"])
        return logits

    def follow(self, actions: Tensor, before: LockstepState) -> None:
        """Compose what was reduced, and let the tracker read on in rows that moved."""
        table = self.vectors["table"]
        rows = (actions == REDUCE).nonzero().squeeze(1)
        _, right, left = lockstep.tops(before)[rows].unbind(1)
        node = before.stack.shape[1] + before.n_reduced[rows]
        table[rows, node] = self._composition(table[rows, left], table[rows, right])
        self._look(actions != PAD)

    def _look(self, moved: Tensor) -> None:
        table, hidden, cell = self.vectors["table"], self.vectors["hidden"], self.vectors["cell"]
        tops = lockstep.tops(self.parser)
        nodes = torch.where(tops >= 0, tops, table.shape[1] - 1)
        states = table.gather(1, nodes.unsqueeze(2).expand(-1, -1, table.shape[2]))
        read = self._tracker.step(self._composition.hidden(states).flatten(1), (hidden, cell))
        self.vectors["hidden"], self.vectors["cell"] = (
            torch.where(moved.unsqueeze(1), new, old) for new, old in zip(read, (hidden, cell), strict=True)
        )
