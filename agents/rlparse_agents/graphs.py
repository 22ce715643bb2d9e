"""Replay the sampling of parses as CUDA graphs: one launch instead of dozens at every step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rlparse_agents.sampling import Draw, Played, Reading, play_dense

BUCKET = 4
"""Sentence lengths are rounded up to multiples of it, so that few graphs serve all batches."""

MOST_GRAPHS = 32
"""Beyond so many the one that was not used for the longest time is dropped."""


class _Graph(NamedTuple):
    """A captured parse and the tensors it reads and writes at every replay."""

    graph: torch.cuda.CUDAGraph
    tokens: Tensor
    lengths: Tensor
    thresholds: Tensor
    played: Played


class PlayGraphs:
    """Capture `play_dense` for every shape that comes, and replay it.

    A graph reads weights where they lay when it was captured. Optimisers change them in place; when they lie
    elsewhere, or are others, all graphs are captured anew. What `play` returns is overwritten by the next call.
    """

    def __init__(self) -> None:
        self._graphs: OrderedDict[tuple[int, int], _Graph] = OrderedDict()
        self._weights: tuple[tuple[int, torch.dtype], ...] = ()

    def __reduce__(self) -> tuple[type[PlayGraphs], tuple[()]]:
        """Graphs belong to one process and its memory: a copy begins without."""
        return PlayGraphs, ()

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Rows and tokens of the graphs that are kept, the latest used last."""
        return list(self._graphs)

    def play(
        self,
        tokens: Tensor,
        lengths: Tensor,
        read: Callable[[Tensor, Tensor], Reading],
        draw: Draw,
        parts: Sequence[nn.Module],
    ) -> Played:
        """Parse as `play_dense` does.

        Args:
            tokens: [R, N] int64, on a CUDA device.
            lengths: [R] int64.
            read: `sampling.read` of what is to be read.
            draw: Called once, for thresholds of the rounded shape.
            parts: Modules that are read, so that a graph ends with the weights it was captured with.

        Raises:
            ValueError: The batch is not on a CUDA device.
        """
        if not tokens.is_cuda:
            raise ValueError(
                f"sampler='graph' needs batches on a CUDA device, got one on {tokens.device}; use sampler='auto'"
            )
        weights = tuple((w.data_ptr(), w.dtype) for part in parts for w in part.parameters())
        if weights != self._weights:
            self._graphs.clear()
            self._weights = weights
        rows, n_tokens = tokens.shape
        shape = (rows, -(-n_tokens // BUCKET) * BUCKET)
        if shape not in self._graphs:
            self._graphs[shape] = _capture(shape, tokens, read)
            if len(self._graphs) > MOST_GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(shape)
        captured = self._graphs[shape]
        captured.tokens[:, :n_tokens] = tokens
        captured.tokens[:, n_tokens:] = 0
        captured.lengths.copy_(lengths)
        captured.thresholds.copy_(draw(tuple(captured.thresholds.shape)))
        captured.graph.replay()
        return captured.played._replace(n_steps=2 * n_tokens - 1)


def _capture(shape: tuple[int, int], like: Tensor, read: Callable[[Tensor, Tensor], Reading]) -> _Graph:
    rows, n_tokens = shape
    tokens = like.new_zeros(shape)
    lengths = like.new_ones(rows)
    thresholds = torch.zeros(2 * n_tokens - 1, rows, device=like.device)

    def run() -> Played:
        return play_dense(tokens, lengths, read, lambda _: thresholds)

    # What is done for the first time, as choosing kernels and allocating their workspaces, cannot be captured.
    with torch.cuda.device(like.device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            played = run()
    return _Graph(graph, tokens, lengths, thresholds, played)
