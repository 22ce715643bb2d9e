"""The options of one command: from argv to its dataclass, on top of the layers below the command line.

tyro does the parsing and the help. What decides the layers (PRESET, ``--config``, ``--resume``) is read
first, so that ``--help`` shows the defaults that hold for this very command line.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Sequence
from dataclasses import MISSING, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from rlparse.errors import ConfigError
from rlparse_experiments.layered_config import (
    Dataclass,
    Setting,
    agent_file,
    agent_names,
    apply_settings,
    changed_settings,
    preset_file,
    preset_names,
    read_settings,
)

C = TypeVar("C", bound=Dataclass)

DEFAULT_PRESET = "logic"


def configure(
    config_type: type[C],
    argv: Sequence[str],
    *,
    prog: str,
    description: str,
    defaults: C | None = None,
    preset: str | None = None,
    agent: str | None = None,
    config_files: Sequence[Path] = (),
    more: Sequence[tuple[str, Any, Any]] = (),
    check: Callable[[C, Collection[str]], None] | None = None,
) -> C:
    """Fill a configuration: preset, agent, then YAML files, then the options on the command line.

    Args:
        config_type: The dataclass; a field without a default has to come from one of the layers.
        argv: The options without those that were read ahead.
        prog: How the command was called, for the help and for errors.
        description: First paragraphs of the help.
        defaults: The lowest layer, where it is not the defaults of the fields.
        preset: Name of a preset.
        agent: Name of an agent, a preset of its own.
        config_files: YAML files, a later one wins.
        more: (name, type, value) of options that were read ahead and only need a line in the help.
        check: Looks at the configuration and the dotted settings that the command line has changed, and may raise.

    Raises:
        ConfigError: A file has an unknown setting or a value of the wrong type, or ``check`` refuses something.
        SystemExit: With code 0 after ``--help``; with code 2 when tyro refuses an option and has said why.
    """
    config = _with_open_fields(config_type) if defaults is None else defaults
    for path in ([preset_file(preset)] if preset else []) + ([agent_file(agent)] if agent else []):
        config = apply_settings(config, read_settings(path))
    if agent:
        config = apply_settings(config, [Setting(("agent", "system"), agent, "--agent")])
    for path in config_files:
        config = apply_settings(config, read_settings(path))
    options_type = make_dataclass(
        "Options",
        [
            *((name, annotation, field(default=value)) for name, annotation, value in more),
            ("settings", Annotated[config_type, tyro.conf.arg(name="")], field(default=config)),
            ("config", _CONFIG, field(default=tuple(config_files))),
            ("debug", _DEBUG, field(default=False)),
        ],
        frozen=True,
    )
    options: Any = tyro.cli(
        options_type, args=argv, prog=prog, description=description, config=(tyro.conf.AvoidSubcommands,)
    )
    for name, _, value in more:
        if getattr(options, name) != value:
            surplus = getattr(options, name)
            raise ConfigError(
                f"unexpected '{surplus}': {name.upper()} is one word before the options: {prog} {value} ..."
            )
    settings: C = options.settings
    if check is not None:
        check(settings, changed_settings(config, settings))
    return settings


def read_options(config_type: type[C], argv: Sequence[str], *, prog: str, description: str) -> C:
    """Read the command line of a command that has no presets: ``[--config FILE] [--any.field …]``."""
    ahead, rest = _read_ahead(argv, prog)
    return configure(config_type, rest, prog=prog, description=description, config_files=ahead.config)


def read_train_options(
    config_type: type[C],
    argv: Sequence[str],
    *,
    prog: str,
    description: str,
    config_of_run: Callable[[Path], C],
    changeable: Collection[str],
    check: Callable[[C, Collection[str]], None] | None = None,
) -> tuple[C, Path | None]:
    """Read the command line of ``train``: ``[PRESET] [--agent NAME] [--config FILE] [--resume RUN] [--any.field …]``.

    Args:
        config_type: The dataclass of a run.
        argv: Everything after ``train``.
        prog: How the command was called.
        description: First paragraphs of the help.
        config_of_run: Reads the configuration that a run folder was made with.
        changeable: Dotted settings that a resumed run may change; everything else is the run's own.
        check: As in `configure`, of a run that begins.

    Returns:
        The configuration and the run to continue, if any.

    Raises:
        ConfigError: An unknown preset or setting, a value of the wrong type, or a setting that a resumed
            run may not change.
    """
    ahead, rest = _read_ahead(argv, prog, train=True)
    run: Path | None = ahead.resume
    preset = rest.pop(0) if rest and not rest[0].startswith("-") else None
    if run is None:
        preset = preset or DEFAULT_PRESET
        config = configure(
            config_type,
            rest,
            prog=prog,
            description=description,
            preset=preset,
            agent=ahead.agent,
            config_files=ahead.config,
            more=[("preset", _PRESET, preset), ("system", _AGENT, ahead.agent), ("resume", _RESUME, None)],
            check=check,
        )
        return config, None
    if preset or ahead.agent or ahead.config:
        given = f"preset '{preset}'" if preset else f"--config {ahead.config[0]}" if ahead.config else ""
        given = given or f"--agent {ahead.agent}"
        raise ConfigError(f"--resume takes every setting from {run}; remove the {given}")
    before = config_of_run(run)
    config = configure(
        config_type,
        rest,
        prog=prog,
        description=description,
        defaults=before,
        more=[("resume", _RESUME, run)],
    )
    refused = {k: v for k, v in changed_settings(before, config).items() if k not in changeable}
    if refused:
        listed = ", ".join(f"{key} ({old} to {new})" for key, (old, new) in refused.items())
        may = ", ".join(sorted(changeable))
        raise ConfigError(f"--resume keeps the settings of {run}: {listed} cannot change, only {may} can")
    return config, run


def preset_named(argv: Sequence[str], *, prog: str) -> str:
    """Tell which preset `read_train_options` takes."""
    _, rest = _read_ahead(argv, prog, train=True)
    return rest[0] if rest and not rest[0].startswith("-") else DEFAULT_PRESET


_PRESET = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(metavar="PRESET", help=f"one of {', '.join(preset_names())}"),
]
_AGENT = Annotated[
    str | None,
    tyro.conf.arg(name="agent", metavar="NAME", help=f"who learns: one of {', '.join(agent_names())}"),
]
_CONFIG = Annotated[
    tuple[Path, ...],
    tyro.conf.UseAppendAction,
    tyro.conf.arg(metavar="FILE", help="YAML file of settings; the later one wins"),
]
_DEBUG = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help="show the traceback of an error")]
_RESUME = Annotated[
    Path | None, tyro.conf.arg(metavar="RUN", help="continue the run in this folder, with its own settings")
]


def _with_open_fields(config_type: type[C]) -> C:
    """Return the dataclass with its defaults; what has none is open, and tyro asks for it."""
    has_default = {
        f.name for f in fields(config_type) if f.default is not MISSING or f.default_factory is not MISSING
    }
    return config_type(**{f.name: tyro.MISSING for f in fields(config_type) if f.name not in has_default})


def _read_ahead(
    argv: Sequence[str], prog: str, *, train: bool = False
) -> tuple[argparse.Namespace, list[str]]:
    """Take ``--config``, ``--debug`` and, of ``train``, ``--agent`` and ``--resume`` out of the arguments."""
    parser = argparse.ArgumentParser(prog=prog, add_help=False, allow_abbrev=False, usage=f"{prog} [OPTIONS]")
    parser.add_argument("--config", type=Path, action="append", default=[])
    if train:
        parser.add_argument("--agent")
        parser.add_argument("--resume", type=Path)
    parser.add_argument("--debug", action="store_true")
    return parser.parse_known_args(argv)
