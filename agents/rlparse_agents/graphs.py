"""Replay the sampling of parses as CUDA graphs: one launch instead of dozens at every step."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from rlparse_agents.sampling import Draw, Played, Read, play_dense

BUCKET = 4
"""Padded lengths are rounded up to multiples of it, so that few graphs serve all batches."""


class Replayable(Protocol):
    """What this needs of a `torch.cuda.CUDAGraph`."""

    def replay(self) -> None:
        """Do again what was captured."""

    def pool(self) -> Any:
        """Name the memory that it was captured into."""


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


Capture = Callable[[int, int, torch.device, Read, Any], CapturedPlay]
"""What `capture_play` is."""


def capture_play(rows: int, n_tokens: int, device: torch.device, read: Read, pool: Any) -> CapturedPlay:
    """Capture `play_dense` for batches of one shape as a CUDA graph.

    Args:
        rows: R.
        n_tokens: N.
        device: A CUDA device.
        read: Gives what is read.
        pool: Memory of another graph to share; None begins a new one.
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
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            played = run()
    return CapturedPlay(graph, tokens, lengths, thresholds, played)


class PlayGraphs:
    """Parse by replaying graphs, one for every shape of batch, captured when it first comes.

    A graph reads weights where they lay when it was captured, with the kernels that were chosen then. Optimisers
    change weights in place; when they lie elsewhere, or when something that chooses kernels has changed, all graphs are
    captured anew.

    All graphs work in the same memory, which is safe because one is replayed at a time and what it made has been
    used before the next one is.

    Args:
        most: Keep at most so many graphs; the one that was not used for the longest time goes first.
        capture: Makes one; tests without a GPU bring their own.
    """

    def __init__(
        self,
        most: int = 32,
        capture: Capture = capture_play,
    ) -> None:
        self.most = most
        self._capture = capture
        self._captured: OrderedDict[tuple[int, int], CapturedPlay] = OrderedDict()
        self._baked: tuple[object, ...] = ()

    def __reduce__(self) -> tuple[type[PlayGraphs], tuple[int, Capture]]:
        """Graphs belong to one process and its memory: a copy begins without."""
        return PlayGraphs, (self.most, self._capture)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Rows and tokens of the graphs that are kept, the latest used last."""
        return list(self._captured)

    def play(
        self,
        tokens: Tensor,
        lengths: Tensor,
        read: Read,
        draw: Draw,
        parts: Sequence[nn.Module],
        options: tuple[object, ...] = (),
    ) -> Played:
        """Parse as `play_dense` does; the next call overwrites what this one returns.

        Args:
            tokens: [R, N] int64.
            lengths: [R] int64.
            read: Gives what is read.
            draw: Called once, for thresholds of the rounded shape.
            parts: Modules whose weights ``read`` reads.
            options: What else it depends on.
        """
        weights = tuple((w.data_ptr(), w.dtype) for part in parts for w in part.parameters())
        baked = weights, options, _product_precision(), os.environ.get("RLPARSE_KERNELS")
        if baked != self._baked:
            self._captured.clear()
            self._baked = baked
        rows, n_tokens = tokens.shape
        shape = rows, -(-n_tokens // BUCKET) * BUCKET
        captured = self._captured.pop(shape, None)
        if captured is None:
            # Only a graph that still exists can name a memory to share.
            pool = next(iter(self._captured.values())).graph.pool() if self._captured else None
            captured = self._capture(*shape, tokens.device, read, pool)
        self._captured[shape] = captured
        if len(self._captured) > self.most:
            self._captured.popitem(last=False)
        captured.tokens[:, :n_tokens] = tokens
        captured.lengths.copy_(lengths)
        captured.thresholds.copy_(draw(tuple(captured.thresholds.shape)))
        captured.graph.replay()
        return captured.played._replace(n_steps=2 * n_tokens - 1)


def _product_precision() -> str:
    """Tell how float32 matrices are multiplied on a GPU, which a graph keeps as it was."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set by torch's newer switches, a backend at a time
        return str(torch.backends.cuda.matmul.fp32_precision)
