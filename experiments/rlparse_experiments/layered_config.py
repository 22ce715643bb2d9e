"""A frozen dataclass filled in layers: its defaults, a preset, YAML files.

Every layer is read strictly: an unknown key, a key given twice and a value of the wrong type are errors
that name the file, the line and the key. The command line is the last layer (`rlparse_experiments.cli`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

import yaml

from rlparse.errors import ConfigError

PRESETS = Path(__file__).parent / "presets"
"""What to learn: a task with sizes that fit it."""
AGENTS = PRESETS / "agents"
"""Who learns it, and how: the published systems, ours, and the controls."""

Key = tuple[str, ...]


class Dataclass(Protocol):
    """An instance of any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


C = TypeVar("C", bound=Dataclass)


class Setting(NamedTuple):
    """One value of a configuration file and the place it comes from."""

    key: Key
    value: Any
    where: str


def preset_names() -> list[str]:
    """Return the names that `preset_file` knows, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def agent_names() -> list[str]:
    """Return the names that `agent_file` knows, sorted."""
    return sorted(path.stem for path in AGENTS.glob("*.yaml"))


def preset_file(name: str) -> Path:
    """Return the YAML file of a preset.

    Raises:
        ConfigError: There is no preset of this name; the message lists those there are.
    """
    known = preset_names()
    if name not in known:
        raise ConfigError(f"unknown preset '{name}'{did_you_mean(name, known)} (presets: {', '.join(known)})")
    return PRESETS / f"{name}.yaml"


def agent_file(name: str) -> Path:
    """Return the YAML file of an agent.

    Raises:
        ConfigError: There is no agent of this name; the message lists those there are.
    """
    known = agent_names()
    if name not in known:
        raise ConfigError(f"unknown agent '{name}'{did_you_mean(name, known)} (agents: {', '.join(known)})")
    return AGENTS / f"{name}.yaml"


def read_settings(path: Path) -> list[Setting]:
    """Read a YAML (or JSON) file of nested mappings into its settings, in the order of the file.

    Raises:
        ConfigError: The file is not YAML, not a mapping, or gives a key twice.
    """
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        return [] if node is None else list(_settings_of(node, (), path, loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected YAML in UTF-8, found byte {error.start} that is not") from error


def settings_from_mapping(values: Mapping[str, Any], source: str) -> list[Setting]:
    """Turn nested mappings, as `json.loads` returns them, into settings that come from ``source``."""
    settings = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            inner = settings_from_mapping(value, source)
            settings += [Setting((name, *s.key), s.value, source) for s in inner]
        else:
            settings.append(Setting((name,), value, source))
    return settings


def apply_settings(config: C, settings: Iterable[Setting]) -> C:
    """Return a copy of a (nested) dataclass with the settings filled in; the last one of a key wins.

    Raises:
        ConfigError: A key is not a field of the dataclass, or a value does not have the field's type.
    """
    fields = dict(_fields_below(type(config), ()))
    values: dict[Key, Any] = {}
    for setting in settings:
        dotted = ".".join(setting.key)
        if setting.key in fields:
            try:
                values[setting.key] = _converted(setting.value, fields[setting.key])
            except TypeError as error:
                found = "null" if setting.value is None else f"{setting.value!r}"
                raise ConfigError(f"{setting.where}: {dotted} expects {error}, found {found}") from None
        elif section := [key for key in fields if key[: len(setting.key)] == setting.key]:
            if setting.value is not None:  # a section whose lines are all commented out reads as null
                known = ", ".join(".".join(key) for key in section)
                raise ConfigError(
                    f"{setting.where}: {dotted} expects a mapping ({known}), found {setting.value!r}"
                )
        else:
            raise ConfigError(f"{setting.where}: {_unknown(setting.key, fields)}")
    return _rebuilt(config, (), values)


def changed_settings(before: Dataclass, after: Dataclass) -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys whose value differs between two configurations of one type, with both values."""
    keys = [key for key, _ in _fields_below(type(before), ())]
    both = {".".join(key): (_value(before, key), _value(after, key)) for key in keys}
    return {key: (old, new) for key, (old, new) in both.items() if old != new}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'close'?`` or nothing when no known name is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


class _Loader(yaml.SafeLoader):
    """YAML's safe loader that reads 1e-3 as a number too (YAML 1.1 takes it for text and wants 1.0e-3)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _settings_of(node: yaml.Node, key: Key, path: Path, loader: _Loader) -> Iterator[Setting]:
    where = f"{path}, line {node.start_mark.line + 1}"
    if not isinstance(node, yaml.MappingNode):
        if not key:
            raise ConfigError(f"{where}: expected a mapping of settings, found {node.value!r}")
        yield Setting(key, loader.construct_object(node, deep=True), where)
        return
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        name, line = str(key_node.value), key_node.start_mark.line + 1
        if name in seen:
            dotted = ".".join((*key, name))
            raise ConfigError(f"{path}, line {line}: {dotted} is given twice, first in line {seen[name]}")
        seen[name] = line
        yield from _settings_of(value_node, (*key, name), path, loader)


def _fields_below(config_type: type[Dataclass], prefix: Key) -> Iterator[tuple[Key, Any]]:
    """Yield the path and the annotation of every field that is not itself a dataclass."""
    annotations = typing.get_type_hints(config_type)
    for field in dataclasses.fields(config_type):
        inner = _dataclass_in(annotations[field.name])
        if inner is None:
            yield (*prefix, field.name), annotations[field.name]
        else:
            yield from _fields_below(inner, (*prefix, field.name))


def _dataclass_in(annotation: Any) -> type[Dataclass] | None:
    """Return the dataclass that an annotation ``X`` or ``X | None`` names."""
    options = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    return next((o for o in options if isinstance(o, type) and dataclasses.is_dataclass(o)), None)


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _value(config: Any, key: Key) -> Any:
    for name in key:
        config = None if config is None else getattr(config, name)
    return config


def _rebuilt(config: C, prefix: Key, values: Mapping[Key, Any]) -> C:
    """Copy a dataclass with the values whose keys begin with ``prefix``."""
    changes: dict[str, Any] = {}
    annotations = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        key = (*prefix, field.name)
        inner = _dataclass_in(annotations[field.name])
        if inner is not None and any(k[: len(key)] == key for k in values):
            current = getattr(config, field.name)
            changes[field.name] = _rebuilt(inner() if current is None else current, key, values)
        elif key in values:
            changes[field.name] = values[key]
    return dataclasses.replace(config, **changes) if changes else config


def _converted(value: Any, annotation: Any) -> Any:
    """Return ``value`` as the annotated type; raise a TypeError that says what was expected."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if _is_union(annotation):
        for option in arguments:
            try:
                return _converted(value, option)
            except TypeError:
                continue
    elif origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple):
            wanted = arguments[:1] * len(value) if arguments[-1:] == (...,) else arguments
            with contextlib.suppress(TypeError, ValueError):  # an item of the wrong type, or too few or many
                return tuple(_converted(item, a) for item, a in zip(value, wanted, strict=True))
    elif annotation is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif annotation is int:
        if isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer():
            return int(value)
    elif annotation is Path:
        if isinstance(value, str):
            return Path(value)
    elif isinstance(annotation, type) and issubclass(annotation, Enum):
        for member in annotation:
            if value in (member.name, member.value):
                return member
    elif annotation in (bool, str, type(None)) and isinstance(value, annotation):
        return value
    raise TypeError(_described(annotation))


def _described(annotation: Any) -> str:
    """Say in words which values an annotation takes."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if _is_union(annotation):
        return " or ".join(_described(option) for option in arguments)
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in arguments)
    if origin is tuple:
        if arguments[-1:] == (...,):
            return f"a list of: {_described(arguments[0])}"
        return f"a list of {len(arguments)}: " + ", ".join(_described(a) for a in arguments)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "one of " + ", ".join(repr(member.name) for member in annotation)
    words = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text (in quotes if need be)",
    }
    return words.get(annotation, {Path: "a path", type(None): "null"}.get(annotation, f"a {annotation}"))


def _unknown(key: Key, fields: Mapping[Key, Any]) -> str:
    """Say that there is no such setting, and which one is close, or which there are beside it."""

    def closeness(field: Key) -> tuple[float, float]:  # of the last word first: long sections look alike
        pairs = (key[-1], field[-1]), (".".join(key), ".".join(field))
        last, whole = (difflib.SequenceMatcher(None, a.replace("-", "_"), b).ratio() for a, b in pairs)
        return last, whole

    closest = max(fields, key=closeness)
    if closeness(closest)[0] >= 0.6:
        return f"unknown setting '{'.'.join(key)}'; did you mean '{'.'.join(closest)}'?"
    beside = [field for field in fields if field[:-1] == key[:-1]] or list(fields)
    known = ", ".join(".".join(field) for field in beside)
    return f"unknown setting '{'.'.join(key)}' (known here: {known})"
