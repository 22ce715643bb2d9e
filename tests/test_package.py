"""The package as a user gets it: built, installed in a clean environment outside the checkout, imported."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PACKAGES = {
    "rlparse": "rlparse",
    "rlparse_envs": "envs/rlparse_envs",
    "rlparse_agents": "agents/rlparse_agents",
    "rlparse_experiments": "experiments/rlparse_experiments",
}


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command as a user outside the checkout would, and return what it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Built(NamedTuple):
    sdist: Path
    wheel_from_sdist: Path
    wheel_from_tree: Path


@pytest.fixture(scope="module")
def built(repository, tmp_path_factory) -> Built:
    """The sdist, the wheel built from it, and the wheel built from the checkout."""
    through_sdist = tmp_path_factory.mktemp("through_sdist")
    direct = tmp_path_factory.mktemp("direct")
    build = (sys.executable, "-m", "build", "--no-isolation", repository, "--outdir")
    run(*build, through_sdist, cwd=through_sdist)
    run(*build, direct, "--wheel", cwd=direct)
    (sdist,) = through_sdist.glob("*.tar.gz")
    (wheel_from_sdist,) = through_sdist.glob("*.whl")
    (wheel_from_tree,) = direct.glob("*.whl")
    return Built(sdist, wheel_from_sdist, wheel_from_tree)


def wheel_files(wheel: Path) -> list[str]:
    return sorted(zipfile.ZipFile(wheel).namelist())


def source_files(repository: Path) -> list[str]:
    """The files of the four packages as they have to appear in a wheel."""
    return sorted(
        (package / path.relative_to(repository / folder)).as_posix()
        for package, folder in ((Path(name), folder) for name, folder in PACKAGES.items())
        for path in (repository / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )


def test_wheel_holds_every_file_of_the_four_packages(built, repository):
    packaged = [name for name in wheel_files(built.wheel_from_tree) if ".dist-info/" not in name]
    assert packaged == source_files(repository)
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(packaged)
    assert "rlparse_experiments/presets/logic.yaml" in packaged


def test_wheel_from_the_sdist_holds_the_same_files(built):
    assert wheel_files(built.wheel_from_sdist) == wheel_files(built.wheel_from_tree)


def test_sdist_holds_what_the_tests_need(built):
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = "LICENSE README.md CHANGELOG.md CONTRIBUTING.md Makefile constraints.txt pyproject.toml .ci/run"
    assert {*needed.split(), "tests/conftest.py", "tests/test_package.py"} <= names


@pytest.fixture(scope="module")
def clean_environment(built, tmp_path_factory) -> Path:
    """A new virtual environment with the wheel in it, and only the dependencies of the tests' environment.

    Installing torch again would take minutes. Instead a ``.pth`` file puts the site-packages of the tests'
    environment behind the new one's own. Python does not read the ``.pth`` files in a folder added in this
    way, so the editable install of the checkout stays out of reach.
    """
    folder = tmp_path_factory.mktemp("clean") / "environment"
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", built.wheel_from_sdist, cwd=folder)
    site_packages = run(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder
    ).strip()
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(site_packages, "dependencies.pth").write_text(
        "\n".join(sorted(dependencies)) + "\n", encoding="utf-8"
    )
    return folder


def test_all_four_packages_import_from_the_clean_environment(clean_environment):
    script = "import json, {0}; print(json.dumps([m.__file__ for m in ({0},)]))".format(", ".join(PACKAGES))
    files = json.loads(run(clean_environment / "bin" / "python", "-c", script, cwd=clean_environment))
    assert len(files) == len(PACKAGES)
    for file in files:
        assert Path(file).is_relative_to(clean_environment), f"{file} is not the installed one"


def test_every_installed_module_imports(clean_environment):
    script = (
        "import importlib, importlib.util, pkgutil\n"
        "absent = set() if importlib.util.find_spec('triton') else {'rlparse.triton_kernels'}\n"
        f"for package in {list(PACKAGES)}:\n"
        "    paths = importlib.import_module(package).__path__\n"
        "    for module in pkgutil.walk_packages(paths, package + '.'):\n"
        "        if module.name not in absent:\n"
        "            importlib.import_module(module.name)\n"
    )
    run(clean_environment / "bin" / "python", "-W", "error", "-c", script, cwd=clean_environment)


def test_the_source_of_the_kernels_is_installed(clean_environment):
    """Without it nothing would be compiled, and nobody would notice but the clock."""
    script = "from rlparse import compiled; print(compiled.SOURCE.is_file())"
    assert run(clean_environment / "bin" / "python", "-c", script, cwd=clean_environment).strip() == "True"


def test_installed_environment_can_be_made_and_stepped(clean_environment):
    script = (
        "import gymnasium, rlparse_envs\n"
        "env = gymnasium.make('rlparse_envs:rlparse/ShiftReduce-v0')\n"
        "env.reset(seed=0)\n"
        "env.step(0)\n"
        "print(rlparse_envs.__file__)\n"
    )
    file = run(clean_environment / "bin" / "python", "-c", script, cwd=clean_environment).strip()
    assert Path(file).is_relative_to(clean_environment)


def test_installed_command_answers(clean_environment, repository):
    version = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    command = clean_environment / "bin" / "rlparse"
    assert run(command, "--version", cwd=clean_environment).strip() == f"rlparse {version}"
    assert "train" in run(command, "--help", cwd=clean_environment)


def pins(repository: Path) -> dict[str, str]:
    """The versions in constraints.txt by canonical name."""
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_constraints_pin_whatever_is_installed_for_the_declared_dependencies(repository):
    """Follow requirements from pyproject.toml; those of torch itself depend on its build, which pins them."""
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    waiting = [Requirement(line) for lines in (project["dependencies"], *extras) for line in lines]
    declared = {canonicalize_name(requirement.name) for requirement in waiting}
    seen: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        with contextlib.suppress(metadata.PackageNotFoundError):  # an extra that is not installed here
            found = metadata.requires(name) or []
            waiting += [Requirement(line) for line in found if name != "torch"]
        seen.add(name)
    assert len(seen) > len(declared)
    assert seen <= set(pins(repository))


def test_constraints_name_versions_and_nothing_else(repository):
    """No index, path, or local version: pip finds every pin on the plain package index."""
    assert pins(repository)["torch"] == "2.13.0"
    for name, version in pins(repository).items():
        assert canonicalize_name(name) == name
        assert str(Version(version)) == version
        assert Version(version).local is None
