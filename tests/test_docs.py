"""What the documentation shows is true: its commands run, its snippets print what stands below them.

A page is played from top to bottom in an empty folder: a run that it trains is there when it is evaluated. What counts
as part of a page, beside prose:

* ``sh`` and ``console`` blocks, and indented lines that begin with a program of `RUNNERS`: commands. ``rlparse`` is run
  in this process, with the tiny sizes of `TINY`. ``make`` and ``tensorboard`` are not run; it is checked that what they
  name exists, and ``make train`` is played as ``rlparse train``. Any other command fails, so that nobody documents one
  that is not tested.
* ``python`` blocks: run, those of a page in one namespace; a ``text`` block right below one is what it prints.
* ``yaml``, ``text`` and ``json`` blocks whose first line is ``# FILE``: a file that later commands read.

``../shared/data`` is a folder of excerpts of the real data sets where they are there, else of files of the same names
and formats with a few pairs. A command that names a file which neither has is left out, and the test says so.
"""

from __future__ import annotations

import dataclasses
import gzip
import importlib
import io
import json
import re
import shlex
import tomllib
import types
import typing
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from glob import glob
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from rlparse_experiments.cli import COMMANDS, DATA_COMMANDS, main
from rlparse_experiments.compare import CompareConfig
from rlparse_experiments.config import BenchConfig, EvaluateConfig, ParseConfig, TrainConfig
from rlparse_experiments.data import InspectData, ListOpsData, LogicData
from rlparse_experiments.seeds import SeedsConfig

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]

SHELL = ("sh", "console")
LANGUAGES = (*SHELL, "python", "text", "yaml", "json")

TINY_RUN = (
    "--device cpu --corpus.train-limit 40 --encoder.hidden-size 8 --encoder.mlp-size 8 "
    "--parser.embedding-size 8 --parser.hidden-size 8 --parser.tracker-size 8 "
    "--agent.epochs 0.2 --agent.batch-size 8 --agent.n-parses 2 --run.no-progress"
)
"""For training."""

TINY = {
    "rlparse train": TINY_RUN,
    "rlparse seeds": f"--seeds 2 --jobs 2 {TINY_RUN}",
    "rlparse train --resume": "--run.no-progress",
    "rlparse data listops": "--train-size 60 --test-size 20 --max-tokens 25",
    "rlparse data logic": "--draws 3000",
    "rlparse bench": "--quick",
    "python -m rlparse_experiments.sb3_ppo": "--steps 1000",
}
"""Options behind what the page has, so that a command takes a second."""

TINY_GENERATED = "--corpus.n-train 200 --corpus.n-dev 20"
"""For training on what is generated."""

BEFORE = {"metrics.md": "rlparse train"}
"""What the reader of a page has done already."""

EXCERPT = 60
"""Lines of every file of ../shared/data that the pages are played with."""


# ------------------------------------------------------------------------------------------------- reading pages


class Block(NamedTuple):
    """A fenced block, or one indented command."""

    kind: str
    text: str
    line: int


FENCE = re.compile(r"^( *)```(\S*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def blocks_of(page: str) -> list[Block]:
    """Return the blocks of a page in order."""
    found = []
    outside = page
    for match in FENCE.finditer(page):
        indent, kind, text = match.groups()
        text = "".join(line.removeprefix(indent) for line in text.splitlines(keepends=True))
        found.append(Block(kind, text, page[: match.start()].count("\n") + 2))
        outside = outside.replace(match.group(), re.sub(r"[^\n]", "", match.group()), 1)
    for number, line in enumerate(outside.splitlines(), start=1):
        if line.startswith("    ") and line.split() and line.split()[0] in RUNNERS:
            found.append(Block("sh", line, number))
    return sorted(found, key=lambda block: block.line)


def commands_of(block: Block) -> list[str]:
    """Return the commands of a block; in ``console`` they stand behind a ``$``, between what they print."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.kind == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


# -------------------------------------------------------------------------------------------- what runs commands


class MissingDataError(Exception):
    """A command names a file of ../shared/data that is not there."""


def run_rlparse(words: list[str]) -> None:
    """Run ``rlparse …`` in this process, at a tiny size, and expect it to succeed."""
    arguments = words[1:] + tiny_options(words)
    for word in arguments:
        if word.startswith("../shared/") and not Path(word).exists():
            raise MissingDataError(word)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(arguments)
    assert code == 0, f"exit code {code}\n{err.getvalue()}\n{out.getvalue()[-2000:]}"


def tiny_options(words: list[str]) -> list[str]:
    """Return the options to put behind a command of a page."""
    if {"--help", "-h", "--version"} & set(words):
        return []
    begins = " ".join(words[:3]) if words[1:2] == ["data"] else " ".join(words[:2])
    if "--resume" in words:
        begins += " --resume"
    options = TINY.get(begins, "")
    if begins in ("rlparse train", "rlparse seeds") and "--data" not in words:
        options += f" {TINY_GENERATED}"
    return options.split()


def run_module(words: list[str]) -> None:
    """Run ``python -m rlparse_experiments.…`` in this process."""
    assert words[1] == "-m", "python with -m and a module of the project is what this test can run"
    assert words[2].startswith("rlparse")
    arguments = words[3:] + TINY.get(" ".join(words[:3]), "").split()
    out = io.StringIO()
    with redirect_stdout(out):
        code = importlib.import_module(words[2]).main(arguments)
    assert not code, f"exit code {code}\n{out.getvalue()[-2000:]}"


def check_make(words: list[str]) -> None:
    """Expect the targets in the Makefile, and variables that it reads. Not run: they install an environment.

    For ``make train`` that is what follows: the command is played, as later ones may name its run.
    """
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = [word for word in words[1:] if "=" not in word]
    assert targets, "make without a target"
    for target in targets:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"no target {target}"
    for variable in {word.partition("=")[0] for word in words[1:]} - set(targets):
        assert f"$({variable})" in makefile, f"the Makefile does not read {variable}"
    if targets == ["train"]:
        given = [word.removeprefix("ARGS=") for word in words if word.startswith("ARGS=")]
        run_rlparse(["rlparse", "train", *shlex.split(" ".join(given))])


def check_tensorboard(words: list[str]) -> None:
    """Expect the program to be installed with the package. Not run: it does not end."""
    assert words[1:2] == ["--logdir"]
    assert len(words) == 3
    scripts = metadata.distribution("tensorboard").entry_points
    assert "tensorboard" in [script.name for script in scripts if script.group == "console_scripts"]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert any(line.startswith("tensorboard") for line in project["dependencies"])


def check_activation(words: list[str]) -> None:
    """Expect the environment where the Makefile puts it."""
    assert words[1:] == [".venv/bin/activate"]
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^VENV +\?= \.venv$", makefile, re.MULTILINE)


RUNNERS = {
    "rlparse": run_rlparse,
    "python": run_module,
    "make": check_make,
    "tensorboard": check_tensorboard,
    ".": check_activation,
    "source": check_activation,
}


def run_command(command: str) -> None:
    """Run or check one line; fail for a command that this file knows nothing of."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    for sign in ("|", "||", "&", "&&", ";", "<", ">", ">>", "(", ")"):
        assert sign not in words, f"'{sign}': one plain command a line is what this test can run"
    assert words[0] in RUNNERS, (
        f"'{words[0]}': a documented command has to be tested, add it to RUNNERS in tests/test_docs.py"
    )
    # What the shell does with patterns.
    words = [path for word in words for path in (sorted(glob(word)) if "*" in word else []) or [word]]
    RUNNERS[words[0]](words)


# ------------------------------------------------------------------------------------------------------ the tests


@pytest.fixture(scope="session")
def excerpts(tmp_path_factory) -> Path:
    """A folder with a small ``shared/data``: the beginnings of the real files, or files made up like them."""
    top = tmp_path_factory.mktemp("beside")
    data = top / "shared" / "data"
    real = REPOSITORY.parent / "shared" / "data"
    if real.is_dir():
        for path in sorted(file for file in real.glob("*/*") if file.is_file()):
            copy = data / path.relative_to(real)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(beginning(path))
    else:
        (data / "snli").mkdir(parents=True)
        parts = (("train_1percent", 30), ("train_unparsed", 30), ("dev", 6))
        for part, number in parts:
            pairs = "".join(made_up_pair(i, parsed="unparsed" not in part) for i in range(number))
            (data / "snli" / f"snli_1.0_{part}.jsonl.gz").write_bytes(gzip.compress(pairs.encode()))
        (data / "glove").mkdir()
        vectors = "".join(f"{word}{' 0.1' * 50}\n" for word in ("the", "dog", "sleeps", "."))
        (data / "glove" / "glove.6B.50d.top2450.txt").write_text(vectors, encoding="utf-8")
    return top


def beginning(path: Path) -> bytes:
    """Return the first lines of a file, packed if it is."""
    packed = path.suffix == ".gz"
    with gzip.open(path) if packed else path.open("rb") as file:
        text = b"".join(line for line, _ in zip(file, range(EXCERPT), strict=False))
    return gzip.compress(text) if packed else text


def made_up_pair(number: int, *, parsed: bool) -> str:
    """Return a line of SNLI's JSONL."""
    label = ("entailment", "neutral", "contradiction")[number % 3]
    pair: dict[str, str] = {"gold_label": label}
    trees = (f"( ( The dog{number} ) ( sleeps . ) )", "( ( It sleeps ) . )")
    for side, tree in enumerate(trees, start=1):
        pair[f"sentence{side}"] = " ".join(word for word in tree.split() if word not in "()").replace(
            " .", "."
        )
        if parsed:
            pair[f"sentence{side}_binary_parse"] = tree
    return json.dumps(pair) + "\n"


@pytest.fixture
def beside(excerpts, tmp_path_factory, monkeypatch) -> Path:
    """Work in an empty folder beside the excerpts, with a cache and a terminal of its own."""
    folder = Path(tmp_path_factory.mktemp("page", numbered=True))
    (folder / "shared").symlink_to(excerpts / "shared", target_is_directory=True)
    (folder / "project").mkdir()
    monkeypatch.chdir(folder / "project")
    monkeypatch.setenv("RLPARSE_CACHE", str(folder / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
    return folder / "project"


def play(page: str, name: str) -> list[str]:
    """Do what a page shows; return what could not be done because its data are not there."""
    left_out = []
    names: dict[str, object] = {"__name__": f"{Path(name).stem}_page"}
    blocks = blocks_of(page)
    for block, after in zip(blocks, [*blocks[1:], Block("", "", 0)], strict=True):
        where = f"{name}, line {block.line}"
        assert block.kind in LANGUAGES, (
            f"{where}: a block is one of {', '.join(LANGUAGES)}, found '{block.kind}'"
        )
        first, _, rest = block.text.partition("\n")
        if block.kind == "python":
            out = io.StringIO()
            with redirect_stdout(out):
                exec(compile(block.text, where, "exec"), names)
            if after.kind == "text" and not after.text.startswith("# "):
                assert out.getvalue() == after.text, f"{where}: the snippet prints something else"
        elif block.kind in SHELL:
            for command in commands_of(block):
                try:
                    run_command(command)
                except MissingDataError as missing:
                    left_out.append(f"{command} ({missing} is not there)")
                except AssertionError as error:
                    raise AssertionError(f"{where}: {command}: {error}") from error
        elif re.fullmatch(r"# [\w.-]+\.\w+", first):
            Path(first[2:]).write_text(rest, encoding="utf-8")
        if block.kind == "yaml":
            assert isinstance(yaml.safe_load(block.text), dict), where
        if block.kind == "json":
            assert all(json.loads(line) for line in block.text.splitlines()), where
    return left_out


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_what_a_page_shows_works(path, beside):
    if path.name in BEFORE:
        run_command(BEFORE[path.name])
    left_out = play(path.read_text(encoding="utf-8"), path.name)
    if left_out:
        pytest.skip(f"all but {len(left_out)} commands were run: {'; '.join(left_out)}")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_options_that_a_page_names_exist(path):
    named = set(re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", path.read_text(encoding="utf-8")))
    assert named - known_options() == set()


def known_options() -> set[str]:
    """Return every long option of the command line, and of the programs that the pages name beside it."""
    found = {"--help", "--version", "--config", "--resume", "--debug", "--logdir"}
    configs = (TrainConfig, EvaluateConfig, CompareConfig, ParseConfig, ListOpsData, LogicData, InspectData)
    for config in (*configs, BenchConfig, SeedsConfig):
        found |= set(options_of(config, ""))
    found |= {"--into", "--section", "--pictures", "--brief"}  # of learning_page
    return found | {"--agent", "--by", "--strict", "--import-mode"}  # of train, systems_page, mypy and pytest


def options_of(config: type[Any], prefix: str) -> Iterator[str]:
    """Give the options of a dataclass and of those inside it."""
    for name, kind in typing.get_type_hints(config).items():
        option = f"{prefix}{name}".replace("_", "-")
        if dataclasses.is_dataclass(kind):
            yield from options_of(typing.cast(type[Any], kind), f"{option}.")
        else:
            yield f"--{option}"
            if kind is bool or (isinstance(kind, types.UnionType) and bool in typing.get_args(kind)):
                yield "--" + "no-".join(re.split(r"(?<=\.)(?=[^.]*$)|^(?=[^.]*$)", option, maxsplit=1))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", path.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (path.parent / target).exists()]
    assert missing == []


def test_presets_are_all_described():
    from rlparse_experiments.layered_config import preset_names

    page = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in preset_names())


def test_every_command_is_documented():
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    for name in [c.name for c in COMMANDS] + [f"data {c.name}" for c in DATA_COMMANDS]:
        assert re.search(rf"^rlparse {name}\b", text, re.MULTILINE), name


# ------------------------------------------------------------------------------------------ tests of the mechanism


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (
            "```sh\nfrobnicate --all\n```\n",
            "page.md, line 2: frobnicate --all: 'frobnicate': a documented command",
        ),
        ("```bash\nmake test\n```\n", "page.md, line 2: a block is one of sh, console"),
        ("```\nmake test\n```\n", "page.md, line 2: a block is one of sh, console"),
        ("```sh\nmake coffee\n```\n", "make coffee: no target coffee"),
        ("```sh\nmake test HEAT=3\n```\n", "the Makefile does not read HEAT"),
        ("```sh\nrlparse --version | cat\n```\n", "one plain command a line"),
        ("```sh\nrlparse nonsense\n```\n", "exit code 2"),
        ("text\n\n    make coffee\n", "line 3: make coffee: no target coffee"),
        ("```console\n$ rlparse nonsense\nnonsense\n```\n", "exit code 2"),
        ("```python\nprint(1)\n```\n\n```text\n2\n```\n", "the snippet prints something else"),
        ("```yaml\n- 1\n```\n", "page.md, line 2"),
        ("```sh\npython train.py\n```\n", "python with -m and a module"),
        ("```sh\nmake train ARGS=--nonsense\n```\n", "exit code 2"),
    ],
)
def test_a_page_that_is_wrong_fails(page, message, beside):
    with pytest.raises(AssertionError) as caught:
        play(page, "page.md")
    assert message in str(caught.value)


def test_a_page_that_is_right_passes(beside, capsys):
    page = (
        "```python\nx = 1\n```\n\n```python\nprint(x)\n```\n\n```text\n1\n```\n\n"
        "    make test   # everything\n    some code that is no command\n\n"
        "```text\n# trees.txt\n( a b )\n```\n\n"
        "```console\n$ rlparse compare trees.txt \\\n    --gold trees.txt\nF1\n```\n"
        "```sh\nmake train ARGS='--run.name made'\n"
        "python -m rlparse_experiments.report.results_page runs/ma*\n```\n\n"
        "1. a list\n\n   ```sh\n   # a comment\n   rlparse --version  # another\n   ```\n"
    )
    assert play(page, "page.md") == []
    assert Path("trees.txt").read_text(encoding="utf-8") == "( a b )\n"
    assert Path("runs/made/results.json").is_file()


def test_commands_without_their_data_are_left_out_and_told(beside):
    left_out = play("```sh\nrlparse data inspect ../shared/data/nothing\n```\n", "page.md")
    assert left_out == ["rlparse data inspect ../shared/data/nothing (../shared/data/nothing is not there)"]


def test_training_is_made_small_behind_what_the_page_says():
    options = tiny_options(shlex.split("rlparse train snli --data x"))
    assert "--agent.epochs" in options
    assert "--corpus.n-train" not in options
    assert "--corpus.n-train" in tiny_options(["rlparse", "train"])
    assert tiny_options(["rlparse", "train", "--help"]) == []
    assert tiny_options(shlex.split("rlparse train --resume runs/x")) == ["--run.no-progress"]
    assert tiny_options(shlex.split("rlparse data listops --out x"))[:2] == ["--train-size", "60"]
