"""Replay the sampling of parses as CUDA graphs: one launch instead of dozens at every step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from rlparse_agents.sampling import Draw, Played, Read, play_dense

BUCKET = 4
"""Padded lengths are rounded up to multiples of it, so that few graphs serve all batches."""


class Replayable(Protocol):
    """What this needs of a `torch.cuda.CUDAGraph`."""

    def replay(self) -> None:
        """Do again what was captured."""


class CapturedPlay(NamedTuple):
    """A captured parse and the tensors that it reads and writes at every replay.

    Attributes:
        graph: Replays it.
        tokens: [R, N] int64.
        lengths: [R] int64.
        thresholds: [T, R] float.
        played: What it writes.
    """

    graph: Replayable
    tokens: Tensor
    lengths: Tensor
    thresholds: Tensor
    played: Played


def capture_play(rows: int, n_tokens: int, device: torch.device, read: Read) -> CapturedPlay:
    """Capture `play_dense` for batches of one shape as a CUDA graph.

    Args:
        rows: R.
        n_tokens: N.
        device: A CUDA device.
        read: Gives what is read.
    """
    tokens = torch.zeros(rows, n_tokens, dtype=torch.int64, device=device)
    lengths = torch.ones(rows, dtype=torch.int64, device=device)
    thresholds = torch.zeros(2 * n_tokens - 1, rows, device=device)

    def run() -> Played:
        return play_dense(tokens, lengths, read, lambda _: thresholds)

    with torch.cuda.device(device):
        # What happens only the first time, as choosing kernels and making their workspaces, cannot be captured.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Only this thread has to keep to the rules of capturing: another may be copying the next batch meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            played = run()
    return CapturedPlay(graph, tokens, lengths, thresholds, played)


class PlayGraphs:
    """Parse by replaying graphs, one for every shape of batch, captured when it first comes.

    A graph reads weights where they lay when it was captured. Optimisers change them in place; when they lie
    elsewhere, all graphs are captured anew.

    Args:
        most: Keep at most so many graphs; the one that was not used for the longest time goes first.
        capture: Makes one; tests without a GPU bring their own.
    """

    def __init__(
        self,
        most: int = 32,
        capture: Callable[[int, int, torch.device, Read], CapturedPlay] = capture_play,
    ) -> None:
        self.most = most
        self._capture = capture
        self._captured: OrderedDict[tuple[int, int], CapturedPlay] = OrderedDict()
        self._weights: tuple[tuple[int, torch.dtype], ...] = ()

    def __reduce__(self) -> tuple[type[PlayGraphs], tuple[int]]:
        """Graphs belong to one process and its memory: a copy begins without."""
        return PlayGraphs, (self.most,)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Rows and tokens of the graphs that are kept, the latest used last."""
        return list(self._captured)

    def play(
        self, tokens: Tensor, lengths: Tensor, read: Read, draw: Draw, parts: Sequence[nn.Module]
    ) -> Played:
        """Parse as `play_dense` does; the next call overwrites what this one returns.

        Args:
            tokens: [R, N] int64.
            lengths: [R] int64.
            read: Gives what is read.
            draw: Called once, for thresholds of the rounded shape.
            parts: Modules whose weights ``read`` reads.
        """
        weights = tuple((w.data_ptr(), w.dtype) for part in parts for w in part.parameters())
        if weights != self._weights:
            self._captured.clear()
            self._weights = weights
        rows, n_tokens = tokens.shape
        shape = rows, -(-n_tokens // BUCKET) * BUCKET
        captured = self._captured.pop(shape, None)
        if captured is None:
            captured = self._capture(*shape, tokens.device, read)
        self._captured[shape] = captured
        if len(self._captured) > self.most:
            self._captured.popitem(last=False)
        captured.tokens[:, :n_tokens] = tokens
        captured.lengths.copy_(lengths)
        captured.thresholds.copy_(draw(tuple(captured.thresholds.shape)))
        captured.graph.replay()
        return captured.played._replace(n_steps=2 * n_tokens - 1)
