"""The one object from which transitions are sampled and judged, so that sample, log-prob and entropy agree.

`rlparse_agents.sampling` takes the same decisions in fewer operations; its tests hold it to this.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from rlparse import PAD


class MaskedDistribution:
    """A distribution over the legal transitions of many parser states.

    Illegal logits are masked before anything is computed from them. A state with no legal transition (a finished
    row) gives PAD, with log-prob and entropy 0, so that it never counts.

    Args:
        logits: [..., A] float.
        legal: [..., A] bool. True where the transition is legal.
    """

    def __init__(self, logits: Tensor, legal: Tensor) -> None:
        if logits.shape != legal.shape:
            raise ValueError(
                f"logits {tuple(logits.shape)} and legal {tuple(legal.shape)} must have one shape"
            )
        self.legal = legal
        self.finished = ~legal.any(-1)
        open_ = legal | self.finished.unsqueeze(-1)
        self.log_probs = F.log_softmax(logits.masked_fill(~open_, -math.inf), dim=-1)  # [..., A]

    @property
    def free(self) -> Tensor:
        """[...] bool. True where there is a choice: more than one legal transition."""
        return self.legal.sum(-1) > 1

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw one transition for every state: [...] int64, PAD in finished rows."""
        draws = torch.rand(self.finished.shape, generator=generator, device=self.log_probs.device)
        return self._choose((draws >= self.log_probs[..., 0].exp()).long())

    def mode(self) -> Tensor:
        """Give the likeliest transition (SHIFT on a tie): [...] int64, PAD in finished rows."""
        return self._choose((self.log_probs[..., 1] > self.log_probs[..., 0]).long())

    def log_prob(self, transitions: Tensor) -> Tensor:
        """Judge given transitions.

        Args:
            transitions: [...] int64; PAD in finished rows.

        Returns:
            [...] float. Log-probabilities, 0 in finished rows.
        """
        index = transitions.long().clamp_max(1).unsqueeze(-1)
        chosen = self.log_probs.gather(-1, index).squeeze(-1)
        return chosen.masked_fill(self.finished, 0.0)

    def entropy(self) -> Tensor:
        """Give the entropy of every state in nats: [...] float, exactly 0 where there is no choice."""
        safe = self.log_probs.masked_fill(~self.free.unsqueeze(-1), 0.0)
        return -(safe.exp() * safe).sum(-1).masked_fill(~self.free, 0.0)

    def normalised_entropy(self) -> Tensor:
        """Give the entropy divided by the log of the number of options: [...] float in 0..1, 0 if not free."""
        options = self.legal.sum(-1).clamp_min(2).to(self.log_probs.dtype)
        return self.entropy() / options.log()

    def _choose(self, transitions: Tensor) -> Tensor:
        # A rounded probability of 0 or 1 may not let a forced state pick its illegal transition.
        only_shift = self.legal[..., 0] & ~self.legal[..., 1]
        only_reduce = self.legal[..., 1] & ~self.legal[..., 0]
        transitions = transitions.masked_fill(only_shift, 0).masked_fill(only_reduce, 1)
        return transitions.masked_fill(self.finished, PAD)
