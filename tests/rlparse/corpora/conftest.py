"""The real SNLI pairs, read once for all tests that look at them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from rlparse.corpora.loading import LoadedCorpora, load_corpora


class SharedSnli(NamedTuple):
    corpora: LoadedCorpora
    cache_dir: Path


@pytest.fixture(scope="session")
def shared_snli(shared_data, tmp_path_factory) -> SharedSnli:
    """All of ../shared/data/snli, and the cache that it was put into."""
    cache_dir = tmp_path_factory.mktemp("cache")
    return SharedSnli(load_corpora(shared_data / "snli", cache_dir=cache_dir), cache_dir)
