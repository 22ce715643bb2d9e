"""The command ``rlparse``: which commands there are, and how each of them ends.

Nothing heavy is imported before a command runs: neither torch nor, for ``rlparse --help``, tyro.

Exit codes: 0 done; 1 failed; 2 bad usage or input; 130 interrupted (SIGINT); 143 terminated (SIGTERM).
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, NoReturn

from rlparse import __version__
from rlparse.errors import ConfigError, NonFiniteLossError, RlparseError

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM

CHANGEABLE_ON_RESUME = ("agent.epochs", "device", "run.keep_checkpoints", "run.progress", "threads")
"""Settings that ``train --resume RUN`` may change; the others are the run's own."""

UNUSABLE_PATH = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)


class Command(NamedTuple):
    """One word of the command line and what it starts."""

    name: str
    summary: str
    run: Callable[[Sequence[str], str], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code. Errors go to stderr, with a traceback only after ``--debug``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    prog = " ".join(["rlparse", *(word for word in arguments[:1] if word in _names(COMMANDS))])
    try:
        with _sigterm_raises_system_exit():
            code = choose(COMMANDS, arguments, "rlparse", ABOUT)
            sys.stdout.flush()
            return code
    except SystemExit as stop:
        if isinstance(stop.code, str):
            return _report(prog, stop.code, FAILED)
        return stop.code or 0
    except KeyboardInterrupt:
        return _report(prog, "interrupted", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output went away, as in `rlparse ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        return _report(prog, *_explained(error))


def choose(commands: Sequence[Command], arguments: Sequence[str], prog: str, about: str) -> int:
    """Run the command that the first argument names, with the arguments after it.

    Raises:
        ConfigError: The first argument names no command.
    """
    name, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if name in ("-h", "--help"):
        print(overview(commands, prog, about))
        return 0
    if name == "--version" and prog == "rlparse":
        print(f"rlparse {__version__}")
        return 0
    for command in commands:
        if command.name == name:
            return command.run(rest, f"{prog} {name}")
    if not name:
        print(overview(commands, prog, about), file=sys.stderr)
        return BAD_INPUT
    from rlparse_experiments.layered_config import did_you_mean

    names = _names(commands)
    raise ConfigError(f"unknown command '{name}'{did_you_mean(name, names)} (commands: {', '.join(names)})")


def overview(commands: Sequence[Command], prog: str, about: str) -> str:
    """Return the help of a command that has commands below it."""
    width = max(len(name) for name in _names(commands))
    lines = [f"  {command.name:<{width}}  {command.summary}" for command in commands]
    return "\n".join(
        [
            f"usage: {prog} COMMAND [OPTIONS]",
            "",
            about,
            "",
            "commands:",
            *lines,
            "",
            f"{prog} COMMAND --help lists the options of a command; --debug shows the traceback of an error.",
        ]
    )


def _names(commands: Sequence[Command]) -> list[str]:
    return [command.name for command in commands]


def _report(prog: str, message: str, code: int) -> int:
    print(f"{prog}: error: {message}", file=sys.stderr)
    return code


def _explained(error: Exception) -> tuple[str, int]:
    """Return what to say about an error that ends a command, and the exit code."""
    if isinstance(error, NonFiniteLossError):
        return str(error), FAILED
    if isinstance(error, RlparseError):
        return str(error), BAD_INPUT
    if isinstance(error, UNUSABLE_PATH):
        return f"{error.strerror}: {error.filename}" if error.filename else str(error), BAD_INPUT
    return f"{type(error).__name__}: {error} (this is a fault in rlparse; --debug shows where)", FAILED


@contextmanager
def _sigterm_raises_system_exit() -> Iterator[None]:
    """Unwind on SIGTERM, so that files are closed and temporary ones removed; training handles it itself."""

    def stop(signum: int, frame: object) -> NoReturn:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _train(argv: Sequence[str], prog: str) -> int:
    from rlparse_experiments.config import TrainConfig
    from rlparse_experiments.idle_options import refuse_idle_options
    from rlparse_experiments.options import read_train_options
    from rlparse_experiments.run_folder import config_of_run

    config, resume = read_train_options(
        TrainConfig,
        argv,
        prog=prog,
        description="Train an agent to build its own parses. Its only teacher is the reward of the task. For example:\n"
        f"  {prog}                                   generated logical inference (preset logic)\n"
        f"  {prog} snli --data ../shared/data/snli   real pairs from files\n"
        f"  {prog} --resume runs/NAME                go on where a run stopped",
        config_of_run=config_of_run,
        changeable=CHANGEABLE_ON_RESUME,
        check=refuse_idle_options,
    )
    from rlparse_experiments.train import run_train

    return run_train(config, resume=resume)


def _seeds(argv: Sequence[str], prog: str) -> int:
    from rlparse_experiments.seeds import run_seeds

    return run_seeds(argv, prog)


def _evaluate(argv: Sequence[str], prog: str) -> int:
    from rlparse_experiments.arguments import EvaluateArguments
    from rlparse_experiments.options import read_options

    about = "Measure a trained run: accuracy, and its parses against gold and trivial trees."
    config = read_options(EvaluateArguments, argv, prog=prog, description=about)
    from rlparse_experiments.evaluate import run_evaluate

    return run_evaluate(config)


def _compare(argv: Sequence[str], prog: str) -> int:
    from rlparse_experiments.compare import CompareConfig, run_compare
    from rlparse_experiments.options import read_options

    about = (
        "Compare runs, system by system over seeds, and parses, from runs or files, with gold, with each other "
        "and with trivial trees."
    )
    return run_compare(read_options(CompareConfig, argv, prog=prog, description=about))


def _parse(argv: Sequence[str], prog: str) -> int:
    from rlparse_experiments.arguments import ParseArguments
    from rlparse_experiments.options import read_options

    about = "Parse sentences with a trained run."
    config = read_options(ParseArguments, argv, prog=prog, description=about)
    from rlparse_experiments.parse import run_parse

    return run_parse(config)


def _data(argv: Sequence[str], prog: str) -> int:
    return choose(
        DATA_COMMANDS, argv, prog, "Generate the corpora that need no download, and look at corpora."
    )


def _data_listops(argv: Sequence[str], prog: str) -> int:
    from rlparse_experiments.data import ListOpsData, write_listops_data
    from rlparse_experiments.options import read_options

    about = (
        "Generate ListOps (Nangia and Bowman 2018) in the official format: label TAB bracketed expression."
    )
    return write_listops_data(read_options(ListOpsData, argv, prog=prog, description=about))


def _data_logic(argv: Sequence[str], prog: str) -> int:
    from rlparse_experiments.data import LogicData, write_logic_data
    from rlparse_experiments.options import read_options

    about = (
        "Generate propositional-logic inference (Bowman et al. 2015) in the published format, a file per bin."
    )
    return write_logic_data(read_options(LogicData, argv, prog=prog, description=about))


def _data_inspect(argv: Sequence[str], prog: str) -> int:
    from rlparse_experiments.data import InspectData, inspect_data
    from rlparse_experiments.options import read_options

    about = "Read corpus files as training would and print what is in them."
    return inspect_data(read_options(InspectData, argv, prog=prog, description=about))


def _bench(argv: Sequence[str], prog: str) -> int:
    from rlparse_experiments.config import BenchConfig
    from rlparse_experiments.options import read_options

    about = "Measure throughput on this machine: encoders, sampling of parses, training, environment."
    config = read_options(BenchConfig, argv, prog=prog, description=about)
    from rlparse_experiments.bench.command import run_bench

    return run_bench(config)


ABOUT = "Train agents that build their own parses, rewarded by natural-language inference."

COMMANDS = (
    Command("train", "train an agent: [PRESET] [--data FILES] [--any.field VALUE] [--resume RUN]", _train),
    Command("seeds", "train with several seeds and compare: [PRESET] [--seeds N] [options of train]", _seeds),
    Command("evaluate", "measure a trained run on a corpus", _evaluate),
    Command(
        "compare", "compare systems over seeds, and parses with gold, each other and trivial trees", _compare
    ),
    Command("parse", "parse sentences with a trained run", _parse),
    Command("data", "generate or inspect a corpus: listops, logic, inspect", _data),
    Command("bench", "measure throughput on this machine", _bench),
)

DATA_COMMANDS = (
    Command("listops", "generate nested list operations", _data_listops),
    Command("logic", "generate propositional-logic inference", _data_logic),
    Command("inspect", "print statistics of corpus files or folders", _data_inspect),
)

if __name__ == "__main__":
    sys.exit(main())
