"""Encoders that read a sentence word by word and see no tree: the controls that every tree encoder has to beat."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence


class BagOfWords(nn.Module):
    """Sum the words of a sentence, whatever their order.

        vector = sum_t tanh(W e_t + b)

    A sum, not a mean: it keeps how often a word occurs, which is what a bag can know of a sentence, and grows with the
    sentence.

    Reference: Bowman et al. 2015, "A Large Annotated Corpus for Learning Natural Language Inference" (its
    sum-of-words baseline).

    Args:
        embedding_size: E.
        hidden_size: D.
    """

    def __init__(self, embedding_size: int, hidden_size: int) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.project = nn.Linear(embedding_size, hidden_size)

    def forward(self, embeddings: Tensor, lengths: Tensor) -> Tensor:
        """Encode sentences.

        Args:
            embeddings: [R, N, E] float; what stands past a sentence's length is not read.
            lengths: [R] int64.

        Returns:
            [R, D] float.
        """
        token_mask = torch.arange(embeddings.shape[1], device=lengths.device) < lengths.unsqueeze(1)
        words = torch.tanh(self.project(embeddings))  # [R, N, D]
        return torch.where(token_mask.unsqueeze(2), words, 0.0).sum(dim=1)


class PeepholeLSTM(nn.Module):
    """An LSTM whose gates also look at the cell, each through a weight of its own for every unit.

        i = sigmoid(W_i x + U_i h + p_i * c + b_i)
        f = sigmoid(W_f x + U_f h + p_f * c + b_f)
        c' = f * c + i * tanh(W_g x + U_g h + b_g)
        o = sigmoid(W_o x + U_o h + p_o * c' + b_o)
        h' = o * tanh(c')

    Weights begin as those of torch's own recurrent networks do, uniform in +-1 / sqrt(D).

    Reference: Gers & Schmidhuber 2000, "Recurrent Nets that Time and Count".

    Args:
        input_size: E.
        hidden_size: D.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))  # blocks i, f, g, o
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.empty(4 * hidden_size))
        self.peepholes = nn.Parameter(torch.empty(3, hidden_size))  # rows i, f, o
        bound = 1.0 / math.sqrt(hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(
        self, packed: PackedSequence, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[None, tuple[Tensor, Tensor]]:
        """Read sentences, as torch's recurrent networks do, but keep only where they end.

        Args:
            packed: Of R sentences, longest first, [L, E] float.
            state: Hidden and cell to begin with, each [1, R, D] float; None for zeros.

        Returns:
            None, and hidden and cell after the last word of each sentence, each [1, R, D] float.
        """
        D, sizes = self.hidden_size, packed.batch_sizes.tolist()
        inputs = F.linear(packed.data, self.weight_ih, self.bias).split(sizes)
        if state is None:
            nothing = packed.data.new_zeros(sizes[0], D)
            hidden, cell = nothing, nothing
        else:
            hidden, cell = state[0][0], state[1][0]
        p_in, p_forget, p_out = self.peepholes.unbind(0)
        p_both = torch.cat((p_in, p_forget))
        ended: list[tuple[Tensor, Tensor]] = []
        for running, x in zip(sizes, inputs, strict=True):
            if running < len(hidden):
                ended.append((hidden[running:], cell[running:]))
                hidden, cell = hidden[:running], cell[:running]
            gates = F.linear(hidden, self.weight_hh) + x
            i, f = torch.sigmoid(gates[:, : 2 * D] + p_both * cell.repeat(1, 2)).chunk(2, dim=1)
            cell = f * cell + i * torch.tanh(gates[:, 2 * D : 3 * D])
            hidden = torch.sigmoid(gates[:, 3 * D :] + p_out * cell) * torch.tanh(cell)
        ended.append((hidden, cell))
        hiddens, cells = zip(*reversed(ended), strict=True)  # the longest ended last
        return None, (torch.cat(hiddens).unsqueeze(0), torch.cat(cells).unsqueeze(0))


CELLS: dict[str, type[nn.Module]] = {
    "rnn": nn.RNN,
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "peephole_lstm": PeepholeLSTM,
}
"""Recurrent networks by name: (E, D) to a module that reads a packed sequence."""

SEQUENCE_ENCODERS = ("bag_of_words", *CELLS)
"""Names that `build_sequence_encoder` knows."""

State = tuple[Tensor, ...]
"""What a recurrent network carries from word to word: hidden, and cell where it has one; each [1, R, D]."""


class RecurrentEncoder(nn.Module):
    """Read a sentence word by word; its vector is the hidden vector after the last real word.

    With ``bidirectional`` a second network reads from the last word to the first, and the vector is both, one after
    the other: 2 D wide.

    With ``truncate`` back-propagation through time stops so many words before the end of a reading: each network
    learns from the last ``truncate`` words that it reads (the one that reads backwards, from the sentence's first
    ones), and reads those before without gradient. The vectors are the same. As the loss stands at the end only, this
    is what detaching the state every ``truncate`` words does, counted from the end.

    References: Elman 1990, "Finding Structure in Time"; Hochreiter & Schmidhuber 1997, "Long Short-Term Memory";
    Cho et al. 2014, "Learning Phrase Representations Using RNN Encoder-Decoder for Statistical Machine Translation";
    Schuster & Paliwal 1997, "Bidirectional Recurrent Neural Networks"; Williams & Peng 1990, "An Efficient
    Gradient-Based Algorithm for On-Line Training of Recurrent Network Trajectories" (truncation).

    Args:
        cell: ``rnn`` (tanh), ``lstm``, ``gru`` or ``peephole_lstm``.
        embedding_size: E.
        hidden_size: D, of each direction.
        bidirectional: Read from both ends.
        truncate: Words that back-propagation goes back, 0 for all.

    Raises:
        ValueError: The cell is unknown, or ``truncate`` is negative.
    """

    def __init__(
        self,
        cell: str,
        embedding_size: int,
        hidden_size: int,
        *,
        bidirectional: bool = False,
        truncate: int = 0,
    ) -> None:
        super().__init__()
        if cell not in CELLS:
            raise ValueError(f"unknown recurrent cell {cell!r}; known: {', '.join(CELLS)}")
        if truncate < 0:
            raise ValueError(f"truncate counts words and must be 0 (never) or more, got {truncate}")
        self.truncate = truncate
        self.output_size = 2 * hidden_size if bidirectional else hidden_size
        self.onward = CELLS[cell](embedding_size, hidden_size)
        self.reverse = CELLS[cell](embedding_size, hidden_size) if bidirectional else None

    def forward(self, embeddings: Tensor, lengths: Tensor) -> Tensor:
        """Encode sentences.

        Args:
            embeddings: [R, N, E] float; what stands past a sentence's length is not read.
            lengths: [R] int64, each at least 1.

        Returns:
            [R, D] float, [R, 2 D] where it is bidirectional.
        """
        order = torch.argsort(lengths, descending=True, stable=True)
        counts = lengths[order].cpu()  # where packing wants them
        words = embeddings[order]
        vectors = self._read(self.onward, words, counts)
        if self.reverse is not None:
            last = lengths[order].unsqueeze(1) - 1
            places = (last - torch.arange(words.shape[1], device=words.device)).clamp_min(0)  # [R, N]
            vectors = torch.cat((vectors, self._read(self.reverse, _at(words, places), counts)), dim=1)
        return vectors[torch.argsort(order)]

    def _read(self, network: nn.Module, words: Tensor, counts: Tensor) -> Tensor:
        """Give the hidden vector [R, D] after the first ``counts`` words, [R] int64 and falling, of each row."""
        skipped = (counts - self.truncate).clamp_min(0)
        rows = int((skipped > 0).sum()) if self.truncate else 0  # those that are longer, the first ones
        if not rows:
            return _final_state(network, words, counts, None)[0][0]
        with torch.no_grad():
            before = _final_state(network, words[:rows], skipped[:rows], None)
        state = tuple(F.pad(part, (0, 0, 0, len(words) - rows)) for part in before)
        places = skipped.to(words.device).unsqueeze(1) + torch.arange(self.truncate, device=words.device)
        words = _at(words, places.clamp_max(words.shape[1] - 1))
        return _final_state(network, words, counts.clamp_max(self.truncate), state)[0][0]


def _at(words: Tensor, places: Tensor) -> Tensor:
    """Pick words: [R, N, E] at [R, M] to [R, M, E]."""
    return words.gather(1, places.unsqueeze(2).expand(-1, -1, words.shape[2]))


def _final_state(network: nn.Module, words: Tensor, counts: Tensor, state: State | None) -> State:
    """Read the first ``counts`` words of every row."""
    packed = pack_padded_sequence(words, counts, batch_first=True)
    given = None if state is None else state if len(state) == 2 else state[0]  # as torch's networks take it
    final = network(packed, given)[1]
    return cast(State, final) if isinstance(final, tuple) else (final,)


def build_sequence_encoder(
    name: str, embedding_size: int, hidden_size: int, *, bidirectional: bool = False, truncate: int = 0
) -> BagOfWords | RecurrentEncoder:
    """Build a sequence encoder by the name that configurations use.

    Args:
        name: ``bag_of_words``, ``rnn``, ``lstm``, ``gru`` or ``peephole_lstm``.
        embedding_size: E.
        hidden_size: D, of each direction.
        bidirectional: Read from both ends.
        truncate: Words that back-propagation goes back, 0 for all.

    Raises:
        ValueError: The name is unknown, or an option asks for an order that a bag of words does not have.
    """
    if name not in SEQUENCE_ENCODERS:
        raise ValueError(f"unknown sequence encoder {name!r}; known: {', '.join(SEQUENCE_ENCODERS)}")
    if name != "bag_of_words":
        return RecurrentEncoder(
            name, embedding_size, hidden_size, bidirectional=bidirectional, truncate=truncate
        )
    for option, wanted in (("bidirectional", bidirectional), ("truncate", truncate)):
        if wanted:
            raise ValueError(
                f"architecture='bag_of_words' reads words in no order, so {option}={wanted!r} means nothing to it; "
                f"leave {option} out or take one of {', '.join(CELLS)}"
            )
    return BagOfWords(embedding_size, hidden_size)
