"""The tables of docs/environment.md are complete; its snippets are run by tests/test_docs.py."""

from __future__ import annotations

import re

from gymnasium.spaces import Dict

from rlparse_envs import FeatureObserver, ShiftReduceEnv
from rlparse_envs.observations import GameSize


def test_tables_name_every_part_of_both_observations(repository):
    page = (repository / "docs" / "environment.md").read_text(encoding="utf-8")
    space = ShiftReduceEnv().observation_space
    assert isinstance(space, Dict)
    for key, box in space.spaces.items():
        assert re.search(rf"^\| `{key}` \| \[.*\] \| {box.dtype} \|", page, re.MULTILINE), key
    for name in FeatureObserver(GameSize(max_tokens=4, n_sides=2, n_types=9)).names:
        part = re.sub(r"\[\d+\]", "[e]", name.partition(".")[2] or name)
        assert f"`{part}`" in page, name
