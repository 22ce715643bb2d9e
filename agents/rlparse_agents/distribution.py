"""The one object from which decisions are sampled and judged, so that sample, log-prob and entropy agree.

`rlparse_agents.sampling` and `rlparse_agents.boundary_sampling` take the same decisions in fewer operations; their
tests hold them to this.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


class MaskedDistribution:
    """A distribution over the legal actions of many states.

    Illegal logits are masked before anything is computed from them. A state with no legal action (a finished row) gives
    A, one past the last action (PAD where actions are transitions), with log-prob and entropy 0, so that it never
    counts.

    Args:
        logits: [..., A] float, A >= 1.
        legal: [..., A] bool. True where the action is legal.

    Raises:
        ValueError: Their shapes differ.
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
        """[...] bool. True where there is a choice: more than one legal action."""
        return self.legal.sum(-1) > 1

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw one action for every state, from one uniform number each: [...] int64, A in finished rows."""
        draws = torch.rand(self.finished.shape, generator=generator, device=self.log_probs.device)
        # The first legal action at which the summed probabilities pass the number. The last legal one is always good
        # enough, because rounded sums may stop short of 1.
        passed = draws.unsqueeze(-1) < self.log_probs.exp().cumsum(-1)
        last = self.legal.long().cumsum(-1) == self.legal.sum(-1, keepdim=True)
        return self._or_finished((self.legal & (passed | last)).byte().argmax(-1))

    def mode(self) -> Tensor:
        """Give the likeliest action (the first on a tie): [...] int64, A in finished rows."""
        return self._or_finished(self.log_probs.masked_fill(~self.legal, -math.inf).argmax(-1))

    def log_prob(self, actions: Tensor) -> Tensor:
        """Judge given actions.

        Args:
            actions: [...] int; anything in finished rows.

        Returns:
            [...] float. Log-probabilities, 0 in finished rows.
        """
        index = actions.long().clamp_max(self.legal.shape[-1] - 1).unsqueeze(-1)
        chosen = self.log_probs.gather(-1, index).squeeze(-1)
        return chosen.masked_fill(self.finished, 0.0)

    def entropy(self) -> Tensor:
        """Give the entropy of every state in nats: [...] float, exactly 0 where there is no choice."""
        log_probs = self.log_probs.masked_fill(~self._choices(), 0.0)
        return -(log_probs.exp() * log_probs).sum(-1)

    def normalised_entropy(self) -> Tensor:
        """Give the entropy divided by the log of the number of options: [...] float in 0..1, 0 if not free."""
        options = self.legal.sum(-1).clamp_min(2).to(self.log_probs.dtype)
        return self.entropy() / options.log()

    def kl(self, other: MaskedDistribution) -> Tensor:
        """Give how far this distribution lies from another over the same actions.

            KL(p || q) = sum_a p(a) (log p(a) - log q(a)), exactly, not from samples

        Args:
            other: q, with the same legal actions.

        Returns:
            [...] float, with gradient of both; exactly 0 where there is no choice.

        Raises:
            ValueError: The shapes differ.
        """
        if other.legal.shape != self.legal.shape:
            raise ValueError(
                f"a distribution over {tuple(self.legal.shape)} has no divergence from one over "
                f"{tuple(other.legal.shape)}: the shapes must be one"
            )
        nothing = ~self._choices()
        p, q = (distribution.log_probs.masked_fill(nothing, 0.0) for distribution in (self, other))
        return (p.exp() * (p - q)).sum(-1)

    def _choices(self) -> Tensor:
        """[..., A] bool. Legal actions that are not the only one."""
        return self.legal & self.free.unsqueeze(-1)

    def _or_finished(self, actions: Tensor) -> Tensor:
        return actions.masked_fill(self.finished, self.legal.shape[-1])
