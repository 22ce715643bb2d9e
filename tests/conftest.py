"""What every test shares: paths, reproducible Hypothesis runs, one thread, and which tests are left out."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("MPLBACKEND", "Agg")

REPOSITORY = Path(__file__).resolve().parents[1]

settings.register_profile("rlparse", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("rlparse")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets beside the checkout; the test is skipped where there is none."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the public data sets in ../shared/data")
    return folder


@pytest.fixture(scope="module", params=["torch", "compiled"])
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a test with torch's operations, then with the compiled ones where there is a compiler."""
    from rlparse import compiled

    if request.param == "compiled" and isinstance(reason := compiled.load(), str):
        pytest.skip(f"the kernels cannot be compiled here: {reason}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLPARSE_KERNELS", request.param)
        yield str(request.param)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors are faster on one thread, and sums come out the same on every machine."""
    import torch

    torch.set_num_threads(1)


def pytest_configure() -> None:
    """Let SIGINT through, which a shell that starts the tests in the background has them and their children ignore."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``gpu`` where there is no CUDA device."""
    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_tests:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_tests:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
