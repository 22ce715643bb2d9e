"""The snippets of docs/environment.md run as they stand and print what stands below them."""

from __future__ import annotations

import re

from gymnasium.spaces import Dict

from rlparse_envs import FeatureObserver, ShiftReduceEnv
from rlparse_envs.observations import GameSize

BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_snippets_print_what_the_page_says(repository, capsys):
    page = (repository / "docs" / "environment.md").read_text(encoding="utf-8")
    blocks = BLOCK.findall(page)
    assert [kind for kind, _ in blocks].count("text") == 4
    names: dict[str, object] = {"__name__": "environment_page"}
    for (kind, code), (after, expected) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if kind == "python":
            exec(compile(code, "docs/environment.md", "exec"), names)
            printed = capsys.readouterr().out
            assert printed == (expected if after == "text" else ""), code


def test_tables_name_every_part_of_both_observations(repository):
    page = (repository / "docs" / "environment.md").read_text(encoding="utf-8")
    space = ShiftReduceEnv().observation_space
    assert isinstance(space, Dict)
    for key, box in space.spaces.items():
        assert re.search(rf"^\| `{key}` \| \[.*\] \| {box.dtype} \|", page, re.MULTILINE), key
    for name in FeatureObserver(GameSize(max_tokens=4, n_sides=2, n_types=9)).names:
        part = re.sub(r"\[\d+\]", "[e]", name.partition(".")[2] or name)
        assert f"`{part}`" in page, name
