"""Build and load `kernels.c` where there is a C compiler: gates in one pass over memory, and the replay of trees.

Optional. What `rlparse.lockstep`, the cells and the tracker in `rlparse.models` do with torch says the same and
serves everywhere else. The library is built once, on first use, into a cache folder of the user, under a name that
depends on source, compiler and processor. Where that folder cannot be written, or others could write there too, each
process builds its own in a temporary folder that is removed at exit. The environment variable ``RLPARSE_KERNELS``
chooses: ``auto`` (the default) takes what there is, ``torch`` never compiles, ``compiled`` raises where that fails. On
GPUs `triton_kernels` has the same gates.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from rlparse.errors import ConfigError

SOURCE = Path(__file__).with_name("kernels.c")

FLAGS = [
    *("-O3", "-fopenmp-simd", "-fPIC", "-shared"),
    # Sums may be reordered, as vectors need it; NaN and infinity keep their meaning, so that a bad loss is seen.
    *(
        "-fno-math-errno",
        "-fno-trapping-math",
        "-fno-signed-zeros",
        "-fassociative-math",
        "-freciprocal-math",
    ),
]

NATIVE, WIDE = "-march=native", "-mprefer-vector-width=512"
"""GCC and clang prefer half of AVX-512's width on many processors; a memory-bound loop wants all of it."""

ATTEMPTS = ((NATIVE, WIDE), (NATIVE,), ())
"""Flags to try in turn: not every processor has such vectors, and Apple's older clang does not know its own."""

CHOICES = ("auto", "torch", "compiled")

OLDEST_GPU = (7, 0)
"""The least compute capability that Triton supports."""

TIMEOUT = 120
"""Seconds after which a compiler that does not answer is given up."""

_POINTERS = {"tree_lstm_forward": 7, "tree_lstm_backward": 8, "lstm_forward": 5, "lstm_backward": 5}
"""Tables that each function takes, after its two sizes."""

_LAY_OUT = ("lengths", "below", "keys", "position", "children", "rows", "roots", "counts")
_LAY_OUT_SHARED = (
    *("lengths", "below", "keys", "leaves", "slots", "pairs", "levels", "ranks"),
    *("position", "children", "roots", "counts"),
)
_FIND_USES = ("children", "roots", "groups", "uses", "starts", "use_sizes")
_TAKE_STEP = (
    *("actions", "lengths", "first", "tokens", "items", "beneath", "shifted"),
    *("rows", "pairs", "fronts", "tops", "stack_sizes", "buffer_sizes"),
)
_PLAY_BOUNDARIES = (
    *("lengths", "words", "of_words", "of_kinds", "for_shift", "prior"),
    *("thresholds", "hidden", "stack", "transitions", "odds"),
)
"""What these functions call their tables, in order."""


class GateKernels(Protocol):
    """The gates of both LSTMs, each way in one pass over memory; tables are contiguous and of one dtype."""

    def tree_lstm_forward(
        self,
        gates: Tensor,
        bias: Tensor,
        cells: Tensor,
        pairs: Tensor,
        h: Tensor,
        c: Tensor,
        squashed: Tensor,
    ) -> None:
        """Squash gates [m, 5 D] + bias [5 D], and write h, c and tanh(c), [m, D] each.

        The cells of the children are those rows of the table ``cells`` that ``pairs`` [2 m] names, left and right in
        turn.
        """

    def tree_lstm_backward(
        self,
        gates: Tensor,
        cells: Tensor,
        pairs: Tensor,
        squashed: Tensor,
        grad_h: Tensor,
        grad_c: Tensor,
        rows: Tensor,
        grad_cells: Tensor,
    ) -> None:
        """Turn gates into the gradients of what they were squashed from; write those of the children's cells, [m, 2 D].

        The gradients of h and c are those rows of the tables ``grad_h`` and ``grad_c`` that ``rows`` [m] names.
        """

    def lstm_forward(self, gates: Tensor, before: Tensor, h: Tensor, c: Tensor, squashed: Tensor) -> None:
        """Squash gates [m, 4 H] and write h, c and tanh(c), [m, H] each; ``before`` are the cells a step earlier."""

    def lstm_backward(
        self, gates: Tensor, before: Tensor, squashed: Tensor, grad_h: Tensor, grad_c: Tensor
    ) -> None:
        """Turn gates into the gradients of what they were squashed from, and grad_c into that a step earlier."""


class Kernels:
    """The compiled functions, on contiguous tensors of the CPU; `kernels.c` says what they compute.

    All of them raise TypeError where a tensor has another dtype (vectors are float32, numbers int64), and ValueError
    where it is not on the CPU or not contiguous; sizes are the caller's business.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        library = ctypes.CDLL(str(path))
        for name, pointers in _POINTERS.items():
            function = getattr(library, name)
            function.argtypes = [ctypes.c_int64] * 2 + [ctypes.c_void_p] * pointers
            function.restype = None
        library.replay.argtypes = [ctypes.c_int64] * 2 + [ctypes.c_void_p] * 7
        library.replay.restype = ctypes.c_int64
        library.lay_out.argtypes = [ctypes.c_int64] * 5 + [ctypes.c_void_p] * 9
        library.lay_out.restype = ctypes.c_int64
        library.lay_out_shared.argtypes = [ctypes.c_int64] * 5 + [ctypes.c_void_p] * 12
        library.lay_out_shared.restype = ctypes.c_int64
        library.find_uses.argtypes = [ctypes.c_int64] * 3 + [ctypes.c_void_p] * 6
        library.find_uses.restype = None
        library.take_step.argtypes = [ctypes.c_int64] * 6 + [ctypes.c_void_p] * 13
        library.take_step.restype = ctypes.c_int64
        library.add_rows.argtypes = [ctypes.c_int64] * 2 + [ctypes.c_void_p] * 3
        library.add_rows.restype = None
        for name in ("read_boundaries", "read_boundaries_backward"):
            function = getattr(library, name)
            function.argtypes = [ctypes.c_int64] * 2 + [ctypes.c_void_p] * (5 + name.endswith("backward"))
            function.restype = None
        library.play_boundaries.argtypes = [ctypes.c_int64] * 4 + [ctypes.c_void_p] * 11
        library.play_boundaries.restype = None
        self._library = library

    def lay_out(self, n_leaves: int, *tables: Tensor, leaves: Tensor | None) -> bool:
        """Place nodes in one table.

        Args:
            n_leaves: U.
            tables: Those of the function in `kernels.c`, in its order, without leaves; all int64. ``counts`` says how
                many keys there are.
            leaves: [R, N] int64, or None.

        Returns:
            False, with nothing to be read, where a leaf is none of the U.
        """
        pointers = [_numbers(name, table) for name, table in zip(_LAY_OUT, tables, strict=True)]
        pointers.insert(3, 0 if leaves is None else _numbers("leaves", leaves))
        (rows, inner), n_nodes, n_keys = tables[2].shape, len(tables[5]), len(tables[7])
        wrong: int = self._library.lay_out(rows, inner + 1, n_nodes, n_keys, n_leaves, *pointers)
        return not wrong

    def lay_out_shared(self, n_leaves: int, *tables: Tensor) -> int:
        """Place nodes in one table, those of the same children only once.

        Args:
            n_leaves: U.
            tables: Those of the function in `kernels.c`, in its order; all int64. ``slots`` and ``counts`` say how many
                slots and keys there are.

        Returns:
            M, the nodes that differ; -1, with nothing to be read, where a leaf is none of the U.
        """
        pointers = [_numbers(name, table) for name, table in zip(_LAY_OUT_SHARED, tables, strict=True)]
        (rows, inner), n_slots, n_keys = tables[2].shape, len(tables[4]), len(tables[11])
        made: int = self._library.lay_out_shared(rows, inner + 1, n_slots, n_keys, n_leaves, *pointers)
        return made

    def find_uses(self, *tables: Tensor) -> None:
        """Find where table rows are used; tables are those of the function in `kernels.c`, in its order; all int64."""
        pointers = [_numbers(name, table) for name, table in zip(_FIND_USES, tables, strict=True)]
        self._library.find_uses(len(tables[0]), len(tables[1]), len(tables[2]), *pointers)

    def take_step(
        self, running: int, following: int, step: int, node: int, nothing: int, *tables: Tensor
    ) -> int:
        """Take one step on the first ``running`` rows, and look at the ``following`` ones that go on.

        Args:
            running: Rows that take the step.
            following: Rows that take the next one.
            step: Its number.
            node: Table row of the next node.
            nothing: Table row of the zeros.
            tables: Those of the function in `kernels.c`, in its order; all int64.

        Returns:
            How many rows REDUCE.
        """
        rows = tables[1].shape[0]
        pointers = [_numbers(name, table) for name, table in zip(_TAKE_STEP, tables, strict=True)]
        made: int = self._library.take_step(running, following, rows, step, node, nothing, *pointers)
        return made

    def add_rows(self, table: Tensor, index: Tensor, rows: Tensor) -> None:
        """Add rows [n, D] to those of a table that an index [n] names; one may be named more than once."""
        self._library.add_rows(
            *rows.shape, _floats("table", table), _numbers("index", index), _floats("rows", rows)
        )

    def read_boundaries(
        self, of_words: Tensor, of_kinds: Tensor, rows: Tensor, kinds: Tensor, hidden: Tensor
    ) -> None:
        """Write hidden [S, H], the positive part of what words and kinds add: rows [S, 5] of one table, kinds [S]."""
        self._library.read_boundaries(
            *hidden.shape,
            _floats("of_words", of_words),
            _floats("of_kinds", of_kinds),
            _numbers("rows", rows),
            _numbers("kinds", kinds),
            _floats("hidden", hidden),
        )

    def read_boundaries_backward(
        self,
        hidden: Tensor,
        gradient: Tensor,
        rows: Tensor,
        kinds: Tensor,
        of_words: Tensor,
        of_kinds: Tensor,
    ) -> None:
        """Add to the gradients of both tables what that of hidden [S, H] makes of them."""
        self._library.read_boundaries_backward(
            *hidden.shape,
            _floats("hidden", hidden),
            _floats("gradient", gradient),
            _numbers("rows", rows),
            _numbers("kinds", kinds),
            _floats("of_words", of_words),
            _floats("of_kinds", of_kinds),
        )

    def play_boundaries(self, *tables: Tensor) -> None:
        """Parse sentences with a network over boundaries.

        Args:
            tables: Those of the function in `kernels.c`, in its order; lengths, words, stack and transitions are int64.
        """
        whole = ("lengths", "words", "stack", "transitions")
        pointers = [
            (_numbers if name in whole else _floats)(name, table)
            for name, table in zip(_PLAY_BOUNDARIES, tables, strict=True)
        ]
        (rows, columns), (_, hidden_size), (width, _) = (tables[k].shape for k in (1, 2, 5))
        self._library.play_boundaries(rows, columns - 2, hidden_size, width, *pointers)

    def replay(
        self,
        transitions: Tensor,
        lengths: Tensor,
        children: Tensor,
        steps: Tensor,
        heights: Tensor,
        tops: Tensor,
        legal: Tensor,
    ) -> bool:
        """Write what `lockstep.trace` gives; False, with nothing to be read, where a derivation is wrong."""
        rows, n_inner = steps.shape
        wrong: int = self._library.replay(
            rows,
            n_inner + 1,
            _numbers("transitions", transitions),
            _numbers("lengths", lengths),
            _numbers("children", children),
            _numbers("steps", steps),
            _numbers("heights", heights),
            _numbers("tops", tops),
            _pointer("legal", legal, torch.bool),
        )
        return not wrong

    def tree_lstm_forward(
        self,
        gates: Tensor,
        bias: Tensor,
        cells: Tensor,
        pairs: Tensor,
        h: Tensor,
        c: Tensor,
        squashed: Tensor,
    ) -> None:
        """See `GateKernels.tree_lstm_forward`."""
        self._library.tree_lstm_forward(
            *h.shape,
            _floats("gates", gates),
            _floats("bias", bias),
            _floats("cells", cells),
            _numbers("pairs", pairs),
            _floats("h", h),
            _floats("c", c),
            _floats("squashed", squashed),
        )

    def tree_lstm_backward(
        self,
        gates: Tensor,
        cells: Tensor,
        pairs: Tensor,
        squashed: Tensor,
        grad_h: Tensor,
        grad_c: Tensor,
        rows: Tensor,
        grad_cells: Tensor,
    ) -> None:
        """See `GateKernels.tree_lstm_backward`."""
        self._library.tree_lstm_backward(
            *squashed.shape,
            _floats("gates", gates),
            _floats("cells", cells),
            _numbers("pairs", pairs),
            _floats("squashed", squashed),
            _floats("grad_h", grad_h),
            _floats("grad_c", grad_c),
            _numbers("rows", rows),
            _floats("grad_cells", grad_cells),
        )

    def lstm_forward(self, gates: Tensor, before: Tensor, h: Tensor, c: Tensor, squashed: Tensor) -> None:
        """See `GateKernels.lstm_forward`."""
        self._library.lstm_forward(
            *h.shape,
            _floats("gates", gates),
            _floats("before", before),
            _floats("h", h),
            _floats("c", c),
            _floats("squashed", squashed),
        )

    def lstm_backward(
        self, gates: Tensor, before: Tensor, squashed: Tensor, grad_h: Tensor, grad_c: Tensor
    ) -> None:
        """See `GateKernels.lstm_backward`."""
        self._library.lstm_backward(
            *grad_h.shape,
            _floats("gates", gates),
            _floats("before", before),
            _floats("squashed", squashed),
            _floats("grad_h", grad_h),
            _floats("grad_c", grad_c),
        )


def _pointer(name: str, table: Tensor, dtype: torch.dtype) -> int:
    """Give where a table begins: C would read and write whatever it is told to."""
    if table.dtype is not dtype:
        raise TypeError(f"{name} must be {dtype}, got {table.dtype}")
    if not table.is_cpu:
        raise ValueError(f"{name} must be on the CPU, got a tensor on {table.device}")
    if not table.is_contiguous():
        raise ValueError(
            f"{name} must be contiguous, got {tuple(table.shape)} with strides {table.stride()}; "
            "call .contiguous() first"
        )
    return table.data_ptr()


def _floats(name: str, table: Tensor) -> int:
    return _pointer(name, table, torch.float32)


def _numbers(name: str, table: Tensor) -> int:
    return _pointer(name, table, torch.int64)


def gate_kernels(like: Tensor) -> GateKernels | None:
    """Give fused gates for tensors like this one, where there are any: compiled ones on CPUs, Triton's on GPUs.

    Raises:
        ConfigError: ``RLPARSE_KERNELS`` is none of its choices, or is ``compiled`` where they cannot be built.
    """
    if like.dtype != torch.float32 or like.device.type not in ("cpu", "cuda"):
        return None
    choice = _choice()
    if choice == "torch":
        return None
    found = load() if like.device.type == "cpu" else load_triton(like.device)
    _check(choice, found)
    return None if isinstance(found, str) else found


def replay_kernels() -> Kernels | None:
    """Give what moves the pointers of parsers, on int64 tensors of the CPU, where it is there.

    Raises:
        ConfigError: ``RLPARSE_KERNELS`` is none of its choices, or is ``compiled`` where it cannot be built.
    """
    choice = _choice()
    if choice == "torch":
        return None
    found = load()
    _check(choice, found)
    return None if isinstance(found, str) else found


def row_adder(like: Tensor) -> Callable[[Tensor, Tensor, Tensor], object]:
    """Give what adds rows to those of a table that an index names: ``index_add_``, or for short rows what is faster."""
    kernels = gate_kernels(like)
    if isinstance(kernels, Kernels):
        add_rows = kernels.add_rows
        # Gradients that autograd hands over may be columns of something wider.
        return lambda table, index, rows: add_rows(table, index.contiguous(), rows.contiguous())
    return lambda table, index, rows: table.index_add_(0, index, rows)


def _choice() -> str:
    choice = os.environ.get("RLPARSE_KERNELS", "auto")
    if choice not in CHOICES:
        raise ConfigError(f"RLPARSE_KERNELS must be one of {', '.join(CHOICES)}, got {choice!r}")
    return choice


def _check(choice: str, found: object) -> None:
    if choice == "compiled" and isinstance(found, str):
        raise ConfigError(
            f"RLPARSE_KERNELS=compiled, but the kernels cannot be built: {found}; "
            "mend that, or leave the variable out to go on without them"
        )


@functools.cache
def load_triton(device: torch.device) -> GateKernels | str:
    """Give the kernels for a GPU if it can run one, which is tried once a process; where it cannot, say why."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    try:
        capability = torch.cuda.get_device_capability(device)
        if capability < OLDEST_GPU:  # for some of them Triton ends the process
            return (
                f"Triton needs a GPU of compute capability {OLDEST_GPU} or later, {device} has {capability}"
            )
        from rlparse.triton_kernels import TritonKernels

        kernels = TritonKernels()
        gates, *others = (
            torch.zeros(1, size, device=device, dtype=torch.float32) for size in (4, 1, 1, 1, 1)
        )
        kernels.lstm_forward(gates, *others)
    except (
        Exception
    ) as error:  # of Triton, its compiler, the linker that it calls, the driver: they share no class
        return _reason(error)
    return kernels


@functools.cache
def load() -> Kernels | str:
    """Build the library, or find it built, once a process; where that fails, say why."""
    try:
        compiler = _compiler()
        if not compiler:
            return "there is no C compiler (cc, gcc or clang); install one or name it in the environment variable CC"
        version = _run(*compiler, "--version")
        flags = [flag for attempt in (FLAGS, *ATTEMPTS) for flag in attempt]
        told = (SOURCE.read_text(encoding="utf-8"), *compiler, version, *flags, _processor())
    except _FAILURES as error:
        return _reason(error)
    name = f"kernels-{hashlib.sha256(chr(10).join(told).encode()).hexdigest()[:16]}.so"
    reasons = []
    for find_folder in (cache_folder, _temporary_folder):
        try:
            return Kernels(_find_or_build(compiler, find_folder() / name))
        except _FAILURES as error:
            reasons.append(_reason(error))
    return "; ".join(dict.fromkeys(reasons))


def cache_folder() -> Path:
    """Give the user's folder for built libraries."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # "If an implementation encounters a relative path [...] it should consider the path invalid and ignore it."
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "rlparse" / "kernels"


_FAILURES = (OSError, subprocess.SubprocessError, RuntimeError, ValueError, AttributeError)
"""What can go wrong: files and compilers; no home folder; quotes in CC that do not close; a library without a name."""


def _reason(error: Exception) -> str:
    said = error.stderr if isinstance(error, subprocess.CalledProcessError) else ""
    return f"{type(error).__name__}: {(said or str(error)).strip()}"


def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="rlparse-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _compiler() -> list[str]:
    """Give the words that call the compiler, none where there is none; CC may be several: ``ccache gcc``."""
    words = shlex.split(os.environ.get("CC", ""), posix=os.name == "posix")
    return words or [name for name in ("cc", "gcc", "clang") if shutil.which(name)][:1]


def _processor() -> str:
    """Tell processors apart that a home folder may be shared by: what ``-march=native`` looks at."""
    system = platform.platform() + platform.processor()
    if platform.system() == "Darwin":
        try:
            return system + _run("sysctl", "-n", "machdep.cpu.brand_string")
        except (OSError, subprocess.SubprocessError):
            return system
    flags = Path("/proc/cpuinfo")
    if flags.is_file():
        lines = flags.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(
            sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
        )
    return system


def _find_or_build(compiler: list[str], path: Path) -> Path:
    """Give the path of a library that nobody else can have written: to load it is to run it."""
    for folder in (path.parent.parent, path.parent):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_strangers(path.parent)
    if not path.is_file():
        _build(compiler, path)
    _refuse_strangers(path)
    return path


def _refuse_strangers(path: Path) -> None:
    if os.name != "posix":
        return
    found, user = path.stat(), os.geteuid()
    if found.st_uid != user:
        raise PermissionError(f"{path} belongs to user {found.st_uid}, not to {user}, who would run it")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(
            f"{path} can be written by other users ({stat.filemode(found.st_mode)}); chmod go-w would help"
        )


def _build(compiler: list[str], path: Path) -> None:
    """Compile to a temporary name, then rename, so that two processes may do so at once."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        for attempt in ATTEMPTS:
            try:
                _run(*compiler, *FLAGS, *attempt, "-o", str(made), str(SOURCE), "-lm")
                break
            except subprocess.CalledProcessError:
                if attempt == ATTEMPTS[-1]:
                    raise
        made.chmod(0o700)
        made.replace(path)


def _run(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT, check=True
    )
    return done.stdout
