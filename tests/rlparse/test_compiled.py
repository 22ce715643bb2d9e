"""The optional kernels are built once, say why where they cannot be, and leave torch's own operations as they were."""

from __future__ import annotations

import importlib.util
import math
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import pytest
import torch

from rlparse import compiled
from rlparse.compiled import Kernels, gate_kernels, replay_kernels, row_adder
from rlparse.errors import ConfigError


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """An empty cache folder, and nothing loaded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("RLPARSE_KERNELS", raising=False)
    compiled.load.cache_clear()
    yield tmp_path
    compiled.load.cache_clear()


def needs_a_compiler() -> str:
    found = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if found is None:
        pytest.skip("there is no C compiler here")
    return found


def fake_compiler(folder: Path, script: str) -> str:
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_the_library_is_built_once(fresh, monkeypatch):
    needs_a_compiler()
    first = compiled.load()
    assert isinstance(first, Kernels)
    assert [first.path] == list((fresh / "cache" / "rlparse" / "kernels").iterdir())
    compiled.load.cache_clear()
    monkeypatch.setattr(compiled, "_build", lambda *_: pytest.fail("built a second time"))
    second = compiled.load()
    assert isinstance(second, Kernels)
    assert second.path == first.path


def test_another_source_gets_another_library(fresh, monkeypatch):
    needs_a_compiler()
    first = compiled.load()
    changed = fresh / "kernels.c"
    changed.write_text(compiled.SOURCE.read_text() + "\n/* changed */\n")
    monkeypatch.setattr(compiled, "SOURCE", changed)
    compiled.load.cache_clear()
    second = compiled.load()
    assert isinstance(first, Kernels)
    assert isinstance(second, Kernels)
    assert first.path != second.path


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 3", "CalledProcessError: .*returned non-zero exit status 3"),
        ("[ $1 = --version ] && exit 0; echo 'no room left' >&2; exit 1", "CalledProcessError: no room left"),
        ("exit 0", "OSError|FileNotFoundError"),
    ],
)
def test_a_compiler_that_fails_is_given_up(fresh, monkeypatch, script, reason):
    monkeypatch.setenv("CC", fake_compiler(fresh, script))
    like = torch.zeros(1)
    assert gate_kernels(like) is None
    monkeypatch.setenv("RLPARSE_KERNELS", "compiled")
    with pytest.raises(
        ConfigError, match=rf"RLPARSE_KERNELS=compiled, but the kernels cannot be built: ({reason})"
    ):
        gate_kernels(like)
    left = [path for path in (fresh / "cache").rglob("*") if path.is_file()]
    assert left == []


def test_a_home_that_cannot_be_found_does_without_a_cache(fresh, monkeypatch):
    """Path.home() raises where HOME is not set and the user has no entry: some containers."""
    needs_a_compiler()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("TMPDIR", str(fresh))
    monkeypatch.setattr(tempfile, "tempdir", None)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    found = compiled.load()
    assert isinstance(found, Kernels)
    assert found.path.parent.parent == fresh


def test_a_compiler_may_print_what_is_no_text(fresh, monkeypatch):
    monkeypatch.setenv("CC", fake_compiler(fresh, "printf '\\377'; printf '\\376' >&2; exit 1"))
    assert compiled.load() == "CalledProcessError: \ufffd"
    compiled.load.cache_clear()
    script = f"[ $1 = --version ] && printf '\\377' && exit 0; exec {needs_a_compiler()} \"$@\""
    monkeypatch.setenv("CC", fake_compiler(fresh, script))
    assert isinstance(compiled.load(), Kernels)


def test_a_compiler_may_be_several_words(fresh, monkeypatch):
    compiler = needs_a_compiler()
    wrapper = fake_compiler(fresh, f'echo "$@" >> {fresh}/calls; exec "$@"')
    monkeypatch.setenv("CC", f"'{wrapper}' {compiler}")
    first = compiled.load()
    assert isinstance(first, Kernels)
    assert (fresh / "calls").read_text().splitlines()[0] == f"{compiler} --version"
    monkeypatch.setenv("CC", f"'{wrapper}' {compiler} -O2")
    compiled.load.cache_clear()
    second = compiled.load()
    assert isinstance(second, Kernels)
    assert first.path != second.path


def test_quotes_that_do_not_close_are_no_error(fresh, monkeypatch):
    monkeypatch.setenv("CC", "'gcc")
    assert gate_kernels(torch.zeros(1)) is None
    assert compiled.load() == "ValueError: No closing quotation"


def test_a_compiler_that_does_not_know_its_processor_still_serves(fresh, monkeypatch):
    """Apple's clang, before it knew -march=native."""
    script = f'case "$*" in *-march=native*) exit 1;; esac; exec {needs_a_compiler()} "$@"'
    monkeypatch.setenv("CC", fake_compiler(fresh, script))
    assert isinstance(compiled.load(), Kernels)


def test_apples_chips_are_told_apart(fresh, monkeypatch):
    needs_a_compiler()
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    programs = fresh / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    found = []
    for script in ("echo Apple M1", "echo Apple M2", "exit 1"):
        Path(fake_compiler(programs, script)).rename(programs / "sysctl")
        compiled.load.cache_clear()
        found.append(compiled.load())
    assert len({kernels.path for kernels in found}) == 3


def test_a_relative_cache_folder_is_ignored(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "somewhere")
    assert compiled.cache_folder() == Path.home() / ".cache" / "rlparse" / "kernels"


needs_posix = pytest.mark.skipif(os.name != "posix", reason="needs the owners and modes of POSIX")


@needs_posix
def test_nobody_else_can_write_what_is_loaded(fresh):
    needs_a_compiler()
    before = os.umask(0o002)
    try:
        found = compiled.load()
    finally:
        os.umask(before)
    assert isinstance(found, Kernels)
    assert found.path.is_relative_to(fresh / "cache")
    for path in (found.path, found.path.parent, found.path.parent.parent):
        assert path.stat().st_mode & 0o777 == 0o700


def a_folder(path: Path) -> Path:
    return path.parent


def the_library(path: Path) -> Path:
    return path


@needs_posix
@pytest.mark.parametrize("which", [a_folder, the_library])
@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_what_others_can_write_is_not_loaded(fresh, monkeypatch, which, mode):
    needs_a_compiler()
    first = compiled.load()
    assert isinstance(first, Kernels)
    which(first.path).chmod(mode)
    compiled.load.cache_clear()
    second = compiled.load()
    assert isinstance(second, Kernels)
    assert not second.path.is_relative_to(fresh)
    assert second.path.parent.stat().st_mode & 0o777 == 0o700

    def no_folder(**_: str) -> str:
        raise OSError("no room for a temporary folder")

    monkeypatch.setattr(tempfile, "mkdtemp", no_folder)
    compiled.load.cache_clear()
    reason = compiled.load()
    assert isinstance(reason, str)
    assert f"PermissionError: {which(first.path)} can be written by other users" in reason
    assert "; OSError: no room for a temporary folder" in reason


@needs_posix
def test_what_belongs_to_somebody_else_is_not_loaded(fresh, monkeypatch):
    needs_a_compiler()
    first = compiled.load()
    assert isinstance(first, Kernels)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    compiled.load.cache_clear()
    assert re.search(rf"{first.path.parent} belongs to user {owner}, not to {owner + 1}", compiled.load())


def test_a_cache_that_cannot_be_written_is_done_without(fresh, monkeypatch):
    needs_a_compiler()
    (fresh / "cache").write_text("a file, where not even root can make a folder")
    script = "from rlparse import compiled; print(compiled.load().path)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    path = Path(done.stdout.strip())
    assert path.name.startswith("kernels-")
    assert not path.is_relative_to(fresh)
    assert not path.parent.exists()  # removed when the process ended


def test_no_compiler_is_no_error(fresh, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert gate_kernels(torch.zeros(1)) is None
    monkeypatch.setenv("RLPARSE_KERNELS", "compiled")
    with pytest.raises(
        ConfigError, match=r"there is no C compiler \(cc, gcc or clang\); install one or name it"
    ):
        gate_kernels(torch.zeros(1))


def test_they_serve_single_precision_and_numbers_on_the_cpu_only(monkeypatch):
    monkeypatch.setattr(compiled, "load", lambda: pytest.fail("asked for"))
    assert gate_kernels(torch.zeros(1, dtype=torch.float64)) is None
    assert gate_kernels(torch.zeros(1, device="meta")) is None
    monkeypatch.setenv("RLPARSE_KERNELS", "torch")
    assert gate_kernels(torch.zeros(1)) is None
    assert replay_kernels() is None


def test_an_unknown_choice_is_an_error(monkeypatch):
    monkeypatch.setenv("RLPARSE_KERNELS", "fast")
    message = "RLPARSE_KERNELS must be one of auto, torch, compiled, got 'fast'"
    with pytest.raises(ConfigError, match=message):
        gate_kernels(torch.zeros(1))
    with pytest.raises(ConfigError, match=message):
        replay_kernels()


class OnGPU:
    """As much of a tensor on a GPU as is looked at."""

    dtype, device = torch.float32, torch.device("cuda", 1)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU with Triton, as far as anybody can tell who does not launch."""
    monkeypatch.delenv("RLPARSE_KERNELS", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch, "zeros", lambda *shape, **_: torch.ones(shape))
    compiled.load_triton.cache_clear()
    yield OnGPU()
    compiled.load_triton.cache_clear()


def a_triton_that_raises(error: Exception, tries: list[str]) -> types.ModuleType:
    class TritonKernels:
        def lstm_forward(self, *tables: torch.Tensor) -> None:
            tries.append("launch")
            raise error

    module = types.ModuleType("rlparse.triton_kernels")
    module.TritonKernels = TritonKernels
    return module


def refused_for(gpu: OnGPU, monkeypatch, reason: str) -> None:
    """Under ``auto`` torch serves, under ``compiled`` the reason is told."""
    assert gate_kernels(gpu) is None
    with monkeypatch.context() as patch:
        patch.setenv("RLPARSE_KERNELS", "compiled")
        with pytest.raises(
            ConfigError, match=f"RLPARSE_KERNELS=compiled, but the kernels cannot be built: {reason}"
        ):
            gate_kernels(gpu)


@pytest.mark.parametrize(
    "kind", [RuntimeError, ValueError, AssertionError, ImportError, type("Own", (Exception,), {})]
)
def test_a_gpu_that_cannot_launch_is_left_to_torch(gpu, monkeypatch, kind):
    """Triton compiles what launches its kernels, and finds out at the first launch that it cannot."""
    tries: list[str] = []
    module = a_triton_that_raises(kind("Failed to find C compiler"), tries)
    monkeypatch.setitem(sys.modules, "rlparse.triton_kernels", module)
    refused_for(gpu, monkeypatch, f"{kind.__name__}: Failed to find C compiler")
    assert tries == ["launch"]  # once a device


def test_an_old_gpu_is_left_to_torch(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    refused_for(
        gpu,
        monkeypatch,
        r"Triton needs a GPU of compute capability \(7, 0\) or later, cuda:1 has \(6, 1\)",
    )


def test_a_gpu_without_triton_is_left_to_torch(gpu, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused_for(gpu, monkeypatch, "Triton is not installed")


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_gates_are_what_they_should_be(scale):
    """Against the formulas in double precision, up to inputs where sigmoids are 0 or 1."""
    needs_a_compiler()
    kernels = compiled.load()
    assert isinstance(kernels, Kernels)
    m, D = 37, 19
    torch.manual_seed(0)
    pre, cells, bias = scale * torch.randn(m, 5 * D), torch.randn(m, 2 * D), torch.randn(5 * D)
    gates, h, c, squashed = pre.clone(), *(torch.full((m, D), -9.0) for _ in range(3))
    # The cells of the children lie in a table, in any order, and so do the gradients of h and c.
    shuffled = torch.randperm(2 * m)
    table = torch.empty(2 * m, D)
    table[shuffled] = cells.view(2 * m, D)
    kernels.tree_lstm_forward(gates, bias, table, shuffled, h, c, squashed)
    exact = ((pre.double() + bias) / torch.tensor([1.0, 1, 1, 1, 2]).repeat_interleave(D)).requires_grad_()
    below = cells.double().requires_grad_()
    i, left, right, o = (1 / (1 + torch.exp(-x)) for x in exact[:, : 4 * D].chunk(4, dim=1))
    wanted_c = i * torch.tanh(exact[:, 4 * D :]) + left * below[:, :D] + right * below[:, D:]
    wanted_h = o * torch.tanh(wanted_c)
    torch.testing.assert_close(c.double(), wanted_c.detach(), rtol=0, atol=2e-6)
    torch.testing.assert_close(h.double(), wanted_h.detach(), rtol=0, atol=2e-6)
    grad_h, grad_c, grad_cells = torch.randn(m, D), torch.randn(m, D), torch.empty(m, 2 * D)
    loss = (wanted_h * grad_h.double()).sum() + (wanted_c * grad_c.double()).sum()
    wanted_gates, wanted_cells = torch.autograd.grad(loss, (exact, below))
    rows = torch.randperm(m)
    tables = [torch.empty(m, D).index_copy_(0, rows, grad) for grad in (grad_h, grad_c)]
    kernels.tree_lstm_backward(gates, table, shuffled, squashed, *tables, rows, grad_cells)
    gates[:, 4 * D :] *= 2  # of the candidate, which was doubled
    torch.testing.assert_close(gates.double(), wanted_gates, rtol=0, atol=1e-5)
    torch.testing.assert_close(grad_cells.double(), wanted_cells, rtol=0, atol=1e-5)


def test_not_a_number_stays_that_and_where_it_is():
    """And the ends of the line come out as limits, in the vectorised part of a row and in the rest of it."""
    needs_a_compiler()
    kernels = compiled.load()
    assert isinstance(kernels, Kernels)
    H = 37
    bad = torch.zeros(H, dtype=torch.bool)
    bad[[0, 5, H - 1]] = True
    gates, before = torch.randn(2, 4 * H), torch.randn(2, H)
    gates[0, :H][bad] = math.nan
    gates[0, 3 * H + 1 : 3 * H + 4] = torch.tensor([math.inf, -math.inf, 1e30])
    h, c, squashed = (torch.empty(2, H) for _ in range(3))
    kernels.lstm_forward(gates, before, h, c, squashed)
    for table in (h, c, squashed, gates[:, :H]):
        assert torch.equal(table.isnan(), torch.stack((bad, torch.zeros_like(bad))))
    torch.testing.assert_close(gates[0, 3 * H + 1 : 3 * H + 4], torch.tensor([1.0, 0.0, 1.0]))


def test_no_number_makes_the_gates_do_what_c_leaves_undefined(fresh):
    """A program that traps where NaN would become an integer, or a negative number be shifted."""
    compiler = needs_a_compiler()
    (fresh / "main.c").write_text(f"""
        #include "{compiled.SOURCE}"
        int main(void)
        {{
            const float numbers[] = {{NAN, -NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 87.4f, -87.4f, 0.0f}};
            float gates[4], before = 1.0f, h, c, squashed;
            for (int n = 0; n < 9; n++) {{
                for (int k = 0; k < 4; k++) gates[k] = numbers[n];
                lstm_forward(1, 1, gates, &before, &h, &c, &squashed);
                if (isnan(numbers[n]) != isnan(h)) return 3;
            }}
            return 0;
        }}
    """)
    program = fresh / "program"
    checks = ("-fsanitize=undefined,float-cast-overflow", "-fsanitize-undefined-trap-on-error")
    command = (compiler, *checks, "-o", str(program), str(fresh / "main.c"), "-lm")
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this compiler cannot check programs as they run")
    assert subprocess.run([program]).returncode == 0


M, D = 3, 4
FUNCTIONS = {
    "tree_lstm_forward": {
        "gates": (M, 5 * D),
        "bias": (5 * D,),
        "cells": (2 * M, D),
        "pairs": (2 * M,),
        "h": (M, D),
        "c": (M, D),
        "squashed": (M, D),
    },
    "tree_lstm_backward": {
        "gates": (M, 5 * D),
        "cells": (2 * M, D),
        "pairs": (2 * M,),
        "squashed": (M, D),
        "grad_h": (M, D),
        "grad_c": (M, D),
        "rows": (M,),
        "grad_cells": (M, 2 * D),
    },
    "lstm_forward": {
        "gates": (M, 4 * D),
        "before": (M, D),
        "h": (M, D),
        "c": (M, D),
        "squashed": (M, D),
    },
    "lstm_backward": {
        "gates": (M, 4 * D),
        "before": (M, D),
        "squashed": (M, D),
        "grad_h": (M, D),
        "grad_c": (M, D),
    },
    "add_rows": {"table": (5, D), "index": (M,), "rows": (M, D)},
    "read_boundaries": {
        "of_words": (5, D),
        "of_kinds": (16, D),
        "rows": (M, 5),
        "kinds": (M,),
        "hidden": (M, D),
    },
    "read_boundaries_backward": {
        "hidden": (M, D),
        "gradient": (M, D),
        "rows": (M, 5),
        "kinds": (M,),
        "of_words": (5, D),
        "of_kinds": (16, D),
    },
    "play_boundaries": {  # one sentence of two tokens
        "lengths": (1,),
        "words": (1, 4),
        "of_words": (5, D),
        "of_kinds": (16, D),
        "for_shift": (D,),
        "prior": (4, 4),
        "thresholds": (3, 1),
        "hidden": (D,),
        "stack": (4,),
        "transitions": (1, 3),
        "odds": (1, 3),
    },
    "replay": {  # one sentence of two tokens: SHIFT, SHIFT, REDUCE
        "transitions": (1, 3),
        "lengths": (1,),
        "children": (1, 1, 2),
        "steps": (1, 1),
        "heights": (1, 1),
        "tops": (1, 3, 3),
        "legal": (1, 3, 2),
    },
    "lay_out": {
        "lengths": (1,),
        "below": (1, 1, 2),
        "keys": (1, 1),
        "position": (1, 3),
        "children": (1, 2),
        "rows": (1,),
        "roots": (1,),
        "counts": (1,),
        "leaves": (1, 2),
    },
    "lay_out_shared": {
        "lengths": (1,),
        "below": (1, 1, 2),
        "keys": (1, 1),
        "leaves": (1, 2),
        "slots": (2,),
        "pairs": (1, 2),
        "levels": (1,),
        "ranks": (1,),
        "position": (1, 3),
        "children": (1, 2),
        "roots": (1,),
        "counts": (1,),
    },
    "find_uses": {
        "children": (1, 2),
        "roots": (1,),
        "groups": (2,),
        "uses": (3,),
        "starts": (3,),
        "use_sizes": (2,),
    },
    "take_step": {
        "actions": (1,),
        "lengths": (1,),
        "first": (1,),
        "tokens": (2,),
        "items": (2, 1),
        "beneath": (2, 1),
        "shifted": (1,),
        "rows": (1,),
        "pairs": (2,),
        "fronts": (1,),
        "tops": (2,),
        "stack_sizes": (1,),
        "buffer_sizes": (1,),
    },
}
"""Tables of each compiled function, in order, and shapes that fit each other."""

INTEGERS = {"pairs", "index", "kinds", "lengths", "words", "stack", "transitions"}


def tables_of(function: str) -> dict[str, torch.Tensor]:
    def dtype(name: str) -> torch.dtype:
        if name == "legal":
            return torch.bool
        vectors = "lstm" in function or "boundaries" in function or function == "add_rows"
        of_numbers = name in INTEGERS or (name == "rows" and function != "add_rows")
        return torch.float32 if vectors and not of_numbers else torch.int64

    tables = {name: torch.zeros(shape, dtype=dtype(name)) for name, shape in FUNCTIONS[function].items()}
    if function in ("lay_out", "lay_out_shared", "play_boundaries"):
        tables["lengths"].fill_(2)
    if function in ("lay_out", "lay_out_shared"):
        tables["below"][..., 1] = 1
    if function == "find_uses":
        tables["groups"][:] = torch.tensor([2, 1])
    return tables


def call(function: str, tables: dict[str, torch.Tensor]) -> None:
    kernels = compiled.load()
    assert isinstance(kernels, Kernels)
    if function == "lay_out":
        *others, leaves = tables.values()
        kernels.lay_out(2, *others, leaves=leaves)
    elif function == "lay_out_shared":
        kernels.lay_out_shared(2, *tables.values())
    elif function == "take_step":
        kernels.take_step(1, 1, 0, 2, 3, *tables.values())
    else:
        getattr(kernels, function)(*tables.values())


@pytest.mark.parametrize(
    ("function", "name"), [(f, name) for f, tables in FUNCTIONS.items() for name in tables]
)
def test_c_is_given_no_table_that_it_would_misread(function, name):
    needs_a_compiler()
    tables = tables_of(function)
    call(function, tables)
    good = tables[name]
    with pytest.raises(TypeError, match=rf"^{name} must be {good.dtype}, got torch.float64$"):
        call(function, {**tables, name: good.double()})
    with pytest.raises(ValueError, match=rf"^{name} must be on the CPU, got a tensor on meta$"):
        call(function, {**tables, name: good.to("meta")})
    if good.numel() > 1:
        strided = torch.stack((good, good), dim=-1)[..., 0]
        with pytest.raises(ValueError, match=rf"^{name} must be contiguous, got .* with strides .*; call"):
            call(function, {**tables, name: strided})


def test_rows_are_added_wherever_they_lie(kernels):
    table, index, wide = torch.randn(5, D), torch.tensor([[3, 0], [1, 0], [3, 0]]), torch.randn(3, 9)
    wanted = table.clone()
    for i in range(3):
        wanted[index[i, 0]] += wide[i, 2 : 2 + D]
    row_adder(table)(table, index[:, 0], wide[:, 2 : 2 + D])
    torch.testing.assert_close(table, wanted)


def test_loading_leaves_small_numbers_alone():
    """Some compilers' fast arithmetic makes the whole process flush denormal numbers to zero."""
    needs_a_compiler()
    assert isinstance(compiled.load(), Kernels)
    tiny = torch.tensor([1e-40])
    assert float(tiny * 1.0) > 0
