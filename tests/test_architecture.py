"""The layers of the project: which room may import what, and which names a file may not have."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOMS = {
    "rlparse": "rlparse",
    "rlparse_envs": "envs/rlparse_envs",
    "rlparse_agents": "agents/rlparse_agents",
    "rlparse_experiments": "experiments/rlparse_experiments",
}
"""The four packages, lowest first, with their folders. A package imports itself and those before it."""

THIRD_PARTY = {
    "rlparse": {"torch", "numpy", "safetensors"},
    "rlparse_envs": {"torch", "numpy", "safetensors", "gymnasium"},
    "rlparse_agents": {"torch", "numpy", "safetensors", "gymnasium", "stable_baselines3"},
}
"""What the lower three may import beside the standard library; the fourth may import every dependency."""

ALSO_ALLOWED = {
    "rlparse/triton_kernels.py": {"triton"},
    "envs/rlparse_envs/sb3.py": {"stable_baselines3"},
    "agents/rlparse_agents/sb3_masked_recurrent.py": {"sb3_contrib"},
}
"""Adapters and kernels, the only files that know the other side."""

WITHOUT_TORCH = (
    "rlparse",
    "rlparse.errors",
    "rlparse.transitions",
    "rlparse.trees",
    "rlparse.parse_scores",
    "rlparse_experiments",
    "rlparse_experiments.cli",
    "rlparse_experiments.config",
)
"""Modules that may not bring in torch, directly or through what they import."""

SAYS_NOTHING = {"util", "utils", "common", "core", "base", "helper", "helpers", "misc"}


def module_name(path: Path, package_folder: Path) -> str:
    """Return the dotted name of a file: ``.../rlparse/models/tracker.py`` is ``rlparse.models.tracker``."""
    parts = (package_folder.name, *path.relative_to(package_folder).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute module name) for every import of a file, wherever it stands in it."""
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, node.module] if node.module else above)
            if node.module and not node.level:
                yield node.lineno, origin
            else:  # `from . import tracker` names modules, `from .tracker import Tracker` does too
                yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def declared_imports(pyproject: Path) -> set[str]:
    """Return the import names of the dependencies that pyproject.toml declares, extras included."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    extras = [
        line for name, lines in project["optional-dependencies"].items() if name != "dev" for line in lines
    ]
    requirements = [re.split(r"[<>=!~\[; ]", line)[0] for line in project["dependencies"] + extras]
    distributions = {canonical(name) for name in requirements}
    installed = metadata.packages_distributions()
    return {name for name, owners in installed.items() if distributions & {canonical(o) for o in owners}} | {
        canonical(name).replace("-", "_") for name in distributions
    }


def canonical(distribution: str) -> str:
    """Return a distribution's name as the index spells it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def import_violations(root: Path, declared: set[str]) -> list[str]:
    """Return one line for every import below ``root`` that the layers do not allow."""
    found = []
    for level, (room, folder) in enumerate(ROOMS.items()):
        for path in sorted((root / folder).rglob("*.py")):
            where = path.relative_to(root).as_posix()
            third_party = THIRD_PARTY.get(room, declared) | ALSO_ALLOWED.get(where, set())
            allowed = set(list(ROOMS)[: level + 1]) | third_party | sys.stdlib_module_names
            name = module_name(path, root / folder)
            for line, module in imported_modules(path, name):
                if module.split(".")[0] not in allowed:
                    found.append(f"{where}:{line}: {room} may not import {module}")
                elif name in WITHOUT_TORCH and module.split(".")[0] == "torch":
                    found.append(f"{where}:{line}: {name} has to work without torch")
    return found


def naming_violations(root: Path) -> list[str]:
    """Return one line for every file or folder whose name or place the layout does not allow."""
    found = []
    for folder in ("envs", "agents", "experiments", "tests"):
        if (root / folder / "__init__.py").exists():
            found.append(f"{folder}/__init__.py: {folder}/ is a source root, not a package")
    for top in (*ROOMS.values(), "tests"):
        for path in sorted((root / top).rglob("*.py")):
            where = path.relative_to(root)
            if top == "tests" and path.name == "__init__.py" and len(where.parts) > 2:
                found.append(f"{where.as_posix()}: tests have no __init__.py")
            for part in where.with_suffix("").parts[1:]:
                if part.removeprefix("test_").strip("_") in SAYS_NOTHING:
                    found.append(f"{where.as_posix()}: '{part}' does not say what is in it")
    return found


def test_imports_point_one_way(repository):
    assert import_violations(repository, declared_imports(repository / "pyproject.toml")) == []


def test_files_are_named_for_what_is_in_them(repository):
    assert naming_violations(repository) == []


def test_every_room_is_a_typed_package(repository):
    for folder in ROOMS.values():
        assert (repository / folder / "__init__.py").is_file(), folder
        assert (repository / folder / "py.typed").is_file(), folder


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_module_comes_without_torch(name):
    check = f"import sys, {name}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, f"{name} does not come without torch\n{done.stderr}"


@pytest.fixture
def fake_tree(tmp_path):
    """An empty project with the four rooms, and a function that writes a file into it."""
    for folder in ROOMS.values():
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "tests").mkdir()

    def write(where: str, text: str = "") -> Path:
        path = tmp_path / where
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("where", "text", "expected"),
    [
        ("rlparse/a.py", "import gymnasium", "rlparse may not import gymnasium"),
        ("rlparse/a.py", "import numpy as np, yaml.nodes", "rlparse may not import yaml.nodes"),
        ("rlparse/a.py", "def f():\n    import rlparse_envs", ":2: rlparse may not import rlparse_envs"),
        (
            "rlparse/models/a.py",
            "from rlparse_agents.policy import P",
            "may not import rlparse_agents.policy",
        ),
        ("rlparse/a.py", "if TYPE_CHECKING:\n    from gymnasium import Env", "may not import gymnasium"),
        ("rlparse/trees.py", "import torch", "rlparse.trees has to work without torch"),
        ("rlparse/transitions.py", "from torch import nn", "rlparse.transitions has to work without torch"),
        ("rlparse/__init__.py", "import torch", "rlparse has to work without torch"),
        ("envs/rlparse_envs/a.py", "import stable_baselines3", "may not import stable_baselines3"),
        ("envs/rlparse_envs/a.py", "import rlparse_agents.policy", "may not import rlparse_agents.policy"),
        ("agents/rlparse_agents/a.py", "import rlparse_experiments", "may not import rlparse_experiments"),
        ("agents/rlparse_agents/a.py", "import tyro", "rlparse_agents may not import tyro"),
        ("experiments/rlparse_experiments/a.py", "import requests", "may not import requests"),
        ("experiments/rlparse_experiments/a.py", "from ... import agents", "may not import"),
        (
            "experiments/rlparse_experiments/cli.py",
            "def f():\n    import torch",
            "cli has to work without torch",
        ),
    ],
)
def test_forbidden_import_is_found(fake_tree, where, text, expected):
    (violation,) = import_violations(fake_tree(where, text), {"tyro", "torch"})
    assert violation.startswith(where)
    assert expected in violation


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("rlparse/a.py", "import os.path, torch.nn, numpy, safetensors.torch, rlparse.trees"),
        ("rlparse/models/a.py", "from . import b\nfrom ..trees import spans\nfrom .c import d"),
        ("rlparse/models/__init__.py", "from .a import b\nfrom .. import PAD"),
        ("envs/rlparse_envs/a.py", "import gymnasium, rlparse"),
        ("envs/rlparse_envs/sb3.py", "from stable_baselines3.common.vec_env import VecEnv"),
        ("agents/rlparse_agents/a.py", "import rlparse_envs, rlparse, stable_baselines3"),
        ("experiments/rlparse_experiments/a.py", "import tyro, rlparse_agents, rlparse_envs, rlparse"),
    ],
)
def test_allowed_import_is_not_reported(fake_tree, where, text):
    assert import_violations(fake_tree(where, text), {"tyro", "torch"}) == []


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("envs/__init__.py", "envs/ is a source root"),
        ("tests/__init__.py", "tests/ is a source root"),
        ("tests/rlparse/__init__.py", "tests have no __init__.py"),
        ("rlparse/utils.py", "'utils' does not say what is in it"),
        ("rlparse/models/_common.py", "'_common' does not say"),
        ("agents/rlparse_agents/core/losses.py", "'core' does not say"),
        ("tests/rlparse/test_helpers.py", "'test_helpers' does not say"),
    ],
)
def test_forbidden_name_is_found(fake_tree, where, expected):
    assert any(line.startswith(where) and expected in line for line in naming_violations(fake_tree(where)))


def test_good_names_are_not_reported(fake_tree):
    fake_tree("rlparse/database.py")
    fake_tree("tests/rlparse/test_database.py")
    assert naming_violations(fake_tree("rlparse/models/commonsense.py")) == []


def test_declared_imports_knows_packages_with_another_name(repository):
    declared = declared_imports(repository / "pyproject.toml")
    assert {"yaml", "torch", "stable_baselines3", "sb3_contrib", "optuna"} <= declared
    assert not {"requests", "pytest", "hypothesis"} & declared
