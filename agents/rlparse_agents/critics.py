"""Critics: learned baselines with parameters of their own, apart from policy and classifier.

They give values with gradient; `rlparse_agents.losses.value_loss` fits them, and `rlparse_agents.baselines` and
`rlparse_agents.returns` turn values into advantages without gradient.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class SentenceCritic(nn.Module):
    """Expect the return of an example from its words alone.

    An LSTM over word embeddings of its own reads every sentence; its states after the last words are joined and an MLP
    with one hidden layer gives the value. It never sees a parse, so that as a baseline it leaves the policy gradient
    unbiased. Untrained it expects 0. Reference: the value baseline of Williams et al. 2018, "Do latent tree learning
    models identify meaningful structure in sentences?", an LSTM over the words too, there those of the encoder.

    Args:
        n_tokens: Size of the vocabulary; id 0 is padding.
        embedding_size: Width of its embeddings.
        hidden_size: Width of its LSTM and of its hidden layer.
        n_sides: S, sentences of an example. They share one value, because the expected return of either's parses is
            that of the example, also where pairs are scored crosswise.
    """

    def __init__(self, n_tokens: int, embedding_size: int, hidden_size: int, n_sides: int) -> None:
        super().__init__()
        self.n_sides = n_sides
        self.embedding = nn.Embedding(n_tokens, embedding_size, padding_idx=0)
        self.lstm = nn.LSTM(embedding_size, hidden_size, batch_first=True)
        self.head = _value_head(n_sides * hidden_size, hidden_size)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Give the values of examples.

        A batch of K parses of each example has every sentence K times; ``tokens[::K]`` and ``lengths[::K]`` have it
        once.

        Args:
            tokens: [S * B, N] int64. All first sentences, then all second ones.
            lengths: [S * B] int64.

        Returns:
            [B] float.

        Raises:
            ValueError: The rows cannot be shared among S sides.
        """
        rows = len(tokens)
        if rows % self.n_sides:
            raise ValueError(f"{rows} rows cannot be the sentences of examples that have {self.n_sides} each")
        states, _ = self.lstm(self.embedding(tokens))  # [S * B, N, H]; what follows the last word is not read
        ends = states[torch.arange(rows, device=tokens.device), lengths - 1]
        joined = torch.cat(ends.chunk(self.n_sides), dim=1)  # [B, S * H]
        return cast(Tensor, self.head(joined)).squeeze(1)


class StepCritic(nn.Module):
    """Expect the return from what the policy knows before each decision.

    An MLP with one hidden layer over the policy's states, which it reads through a detach: fitting it moves no weight
    of the policy. A state holds what was decided before, and nothing of the decision itself, so that as a baseline it
    leaves the policy gradient unbiased. Untrained it expects 0.

    Args:
        state_size: H, width of the policy's states.
        hidden_size: Width of the hidden layer; None takes ``state_size``.
    """

    def __init__(self, state_size: int, hidden_size: int | None = None) -> None:
        super().__init__()
        self.head = _value_head(state_size, state_size if hidden_size is None else hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        """Give the values of states: [R, M, H] float to [R, M] float."""
        return cast(Tensor, self.head(states.detach())).squeeze(-1)


def _value_head(input_size: int, hidden_size: int) -> nn.Sequential:
    """Build an MLP that starts at 0 everywhere."""
    last = nn.Linear(hidden_size, 1)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
    return nn.Sequential(nn.Linear(input_size, hidden_size), nn.Tanh(), last)
