"""What a parser's state looks like from its boundaries: the words at the ends of the stack's items, and their kinds.

Before every step five words are read, each 0 where it is not there:

    leftmost and rightmost of the second item of the stack, leftmost and rightmost of its top, next of the buffer

and one of 16 *kinds*, in bits: whether the top is a phrase (not a single word), whether its right child is one, and
the same of the second. Without the right child's an open list that ends in a closed list looks like a closed list.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlparse.compiled import Kernels, gate_kernels
from rlparse.models.cells import refuse_second_derivatives
from rlparse.models.layout import distinct_words

N_WORDS = 5
"""Words that are read before a step."""

N_BITS = 4
"""What tells the kinds apart."""


class Boundaries(NamedTuple):
    """What is read before each of some steps.

    Attributes:
        places: [R, M, 5] int64. Columns of `edged` tokens.
        kinds: [R, M] int64, each below 16.
    """

    places: Tensor
    kinds: Tensor


def edged(tokens: Tensor, lengths: Tensor) -> Tensor:
    """Put a column of zeros on both sides, and zeros past every end: [R, N] to [R, N + 2] int64."""
    token_mask = torch.arange(tokens.shape[1], device=tokens.device) < lengths.unsqueeze(1)
    return F.pad(torch.where(token_mask, tokens, 0), (1, 1))


def leaf_marks(rows: int, n_tokens: int, device: torch.device) -> Tensor:
    """Mark nothing and the leaves: [R, 1 + N] int64.

    A *mark* is four times the column of an item's leftmost word, plus 1 for a phrase, plus 2 where its right child is
    one. Column i + 1 holds the mark of node i; column 0 that of nothing.
    """
    return (4 * torch.arange(n_tokens + 1, device=device)).expand(rows, -1)


def node_marks(children: Tensor) -> Tensor:
    """Mark all nodes of complete derivations.

    Args:
        children: [R, N - 1, 2] int64, of `lockstep.Trace`.

    Returns:
        [R, 2 N] int64 marks, see `leaf_marks`; meaningless past a row's last node.
    """
    rows, n_inner = children.shape[:2]
    leaves = leaf_marks(rows, n_inner + 1, children.device)
    # Every node's leftmost leaf, by following left children twice as far each time; leaves point to themselves.
    columns = leaves // 4
    leftmost = torch.cat((columns, children[:, :, 0].clamp_min(0) + 1), dim=1)
    for _ in range(n_inner.bit_length()):
        leftmost = leftmost.gather(1, leftmost)
    inner = 4 * leftmost[:, n_inner + 2 :] + 1 + 2 * (children[:, :, 1] > n_inner)
    return torch.cat((leaves, inner), dim=1)


def boundaries(marks: Tensor, tops: Tensor, shifted: Tensor) -> Boundaries:
    """Look up what is read before each of some steps.

    Args:
        marks: [R, nodes + 1] int64, see `leaf_marks`.
        tops: [R, M, 3] int64. Buffer front, stack top and second before every step, -1 where there is none.
        shifted: [R, M] int64. Tokens shifted before it.
    """
    found = marks.gather(1, tops[:, :, 1:].flatten(1) + 1).view(*shifted.shape, 2)
    top, second = found.unbind(2)
    starts = found // 4
    left, left_of_second = starts.unbind(2)
    # Items lie side by side: the second ends where the top begins, and the top where the buffer does.
    places = (left_of_second, (left - 1).clamp_min(0), left, shifted, shifted + 1)
    return Boundaries(torch.stack(places, dim=2), top % 4 + 4 * (second % 4))


class Shares(NamedTuple):
    """What words and kinds add to the first layer of a network over boundaries.

    Attributes:
        of_words: [U * 5, H] float. Word after word, one row a slot; the first word's is that of nothing.
        of_kinds: [16, H] float, with the bias.
        words: [R, N + 2] int64. For every column of `edged` tokens the first row of its word.
    """

    of_words: Tensor
    of_kinds: Tensor
    words: Tensor


class BoundaryReader(nn.Module):
    """The first layer of a network over boundaries, and the vectors of words that it reads.

        hidden = relu(W [v(second, left); v(second, right); v(top, left); v(top, right); v(next); bits] + b)

    A word's share of W times the input depends on word and slot only, so that it is computed once for all steps.

    Args:
        n_tokens: Size of the vocabulary.
        embedding_size: E, width of the word embeddings.
        hidden_size: H.
        embedding_std: Standard deviation of the untrained word embeddings.
        bilstm: Read the hidden vectors of a bidirectional LSTM over the sentence, H wide each way, not single words.
    """

    def __init__(
        self, n_tokens: int, embedding_size: int, hidden_size: int, *, embedding_std: float, bilstm: bool
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, embedding_size, padding_idx=0)
        with torch.no_grad():
            self.embedding.weight.mul_(embedding_std)
        # Two networks rather than one that goes both ways, which would begin at the padding.
        self.bilstm = nn.ModuleList(
            nn.LSTM(embedding_size, hidden_size, batch_first=True) for _ in range(2 if bilstm else 0)
        )
        self.width = 2 * hidden_size if bilstm else embedding_size
        self.first = nn.Linear(N_WORDS * self.width + N_BITS, hidden_size)

    def shares(self, edged_tokens: Tensor, lengths: Tensor) -> Shares:
        """Compute what every word adds to the first layer in every slot, and every kind.

        Args:
            edged_tokens: [R, N + 2] int64.
            lengths: [R] int64.
        """
        if not self.bilstm:
            types, words = distinct_words(edged_tokens, self.embedding.num_embeddings)
            vectors = self.embedding(types)
        else:
            vectors, words = self._in_context(edged_tokens, lengths)
        weight, hidden_size = self.first.weight, self.first.out_features
        of_words, of_bits = weight.split((N_WORDS * self.width, N_BITS), dim=1)
        by_slot = of_words.view(hidden_size, N_WORDS, -1).transpose(0, 1).reshape(-1, self.width)
        kinds = torch.arange(1 << N_BITS, device=weight.device).unsqueeze(1)
        bits = (kinds >> torch.arange(N_BITS, device=weight.device)) & 1
        of_kinds = F.linear(bits.to(weight.dtype), of_bits, self.first.bias)
        return Shares(F.linear(vectors, by_slot).view(-1, hidden_size), of_kinds, words * N_WORDS)

    def forward(self, tokens: Tensor, lengths: Tensor, seen: Boundaries) -> Tensor:
        """Give the first layer before each of some steps: [R, M, H] float.

        Args:
            tokens: [R, N] int64.
            lengths: [R] int64.
            seen: What is read before them.
        """
        return self.look(self.shares(edged(tokens, lengths), lengths), seen)

    def look(self, shares: Shares, seen: Boundaries) -> Tensor:
        """Give the first layer where the shares of words and kinds are known: [R, M, H] float."""
        of_words, of_kinds, words = shares
        rows = words.gather(1, seen.places.flatten(1)).view(-1, N_WORDS)
        rows = rows + torch.arange(N_WORDS, device=rows.device)
        hidden: Tensor = _Read.apply(of_words, of_kinds, rows, seen.kinds.flatten())  # type: ignore[no-untyped-call]
        return hidden.view(*seen.kinds.shape, -1)

    def _in_context(self, edged_tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Run the LSTM: [1 + U N, 2H] float, zeros first, and which of them stand in every column, [R, N + 2] int64."""
        # Parses of one sentence stand below each other; it is read once.
        is_new = F.pad((edged_tokens[1:] != edged_tokens[:-1]).any(1), (1, 0), value=True)
        sentence = is_new.cumsum(0) - 1  # [R]
        tokens, ends = edged_tokens[is_new, 1:-1], lengths[is_new].unsqueeze(1)
        n_tokens = tokens.shape[1]
        number = torch.arange(n_tokens, device=tokens.device)
        mirrored = (ends - 1 - number).clamp_min(0)  # [U, N]
        ahead, _ = self.bilstm[0](self.embedding(tokens))
        behind, _ = self.bilstm[1](self.embedding(tokens.gather(1, mirrored)))
        mirrored = (
            mirrored + n_tokens * torch.arange(len(tokens), device=tokens.device).unsqueeze(1)
        ).flatten()
        vectors = torch.cat((ahead.flatten(0, 1), behind.flatten(0, 1).index_select(0, mirrored)), dim=1)
        words = torch.where(number < lengths.unsqueeze(1), 1 + number + n_tokens * sentence.unsqueeze(1), 0)
        return F.pad(vectors, (0, 0, 1, 0)), F.pad(words, (1, 1))


class _Read(torch.autograd.Function):
    """`read` with gradient."""

    @staticmethod
    def forward(ctx: Any, of_words: Tensor, of_kinds: Tensor, rows: Tensor, kinds: Tensor) -> Tensor:
        hidden = read(of_words, of_kinds, rows, kinds)
        ctx.save_for_backward(rows, kinds, hidden)
        ctx.sizes = len(of_words), len(of_kinds)
        return hidden

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        rows, kinds, hidden = ctx.saved_tensors
        of_words, of_kinds = (gradient.new_zeros(size, gradient.shape[1]) for size in ctx.sizes)
        kernels = kernels_for(gradient)
        if kernels is not None:
            kernels.read_boundaries_backward(hidden, gradient.contiguous(), rows, kinds, of_words, of_kinds)
        else:
            gradient = torch.where(hidden <= 0, 0.0, gradient)
            for slot in rows.unbind(1):
                of_words.index_add_(0, slot, gradient)
            of_kinds.index_add_(0, kinds, gradient)
        return of_words, of_kinds, None, None


def read(of_words: Tensor, of_kinds: Tensor, rows: Tensor, kinds: Tensor) -> Tensor:
    """Add what words and kinds add, and take the positive part, without gradient.

    Args:
        of_words: [U * 5, H] float.
        of_kinds: [16, H] float.
        rows: [S, 5] int64. Rows of ``of_words``.
        kinds: [S] int64.

    Returns:
        [S, H] float.
    """
    kernels = kernels_for(of_words)
    if kernels is None:
        return F.embedding_bag(rows, of_words, mode="sum").add_(of_kinds.index_select(0, kinds)).relu_()
    hidden = of_words.new_empty(len(kinds), of_words.shape[1])
    kernels.read_boundaries(of_words, of_kinds, rows, kinds, hidden)
    return hidden


def kernels_for(like: Tensor) -> Kernels | None:
    """Give compiled functions for tensors like this one, where there are any."""
    kernels = gate_kernels(like)
    return kernels if isinstance(kernels, Kernels) else None
