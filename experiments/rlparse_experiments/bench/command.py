"""``rlparse bench``: measure sections, hold them against the figures to reach, print and write everything."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlparse.checkpoint import write_json
from rlparse.errors import ConfigError
from rlparse_experiments.bench import encoder, environment, rollout, scaling, sweep, training
from rlparse_experiments.bench.machine import describe_machine
from rlparse_experiments.bench.measuring import CPU, LEAST_SECONDS, WALL, Clock, Measured, Section, measure
from rlparse_experiments.bench.plots import plot_axis
from rlparse_experiments.bench.report import print_machine, print_section, print_verdicts, say
from rlparse_experiments.bench.switches import threads
from rlparse_experiments.bench.targets import TARGETS, judge
from rlparse_experiments.config import BenchConfig, as_json

SECTIONS: dict[str, Callable[[BenchConfig], list[Section]]] = {
    "encoder": encoder.sections,
    "rollout": rollout.sections,
    "env": environment.sections,
    "train": training.sections,
    "scaling": scaling.sections,
}
"""What every word behind ``rlparse bench`` measures."""


def run_bench(config: BenchConfig) -> int:
    """Run ``rlparse bench``.

    Raises:
        ConfigError: A size is too small.
    """
    for name, least in (("batch_size", 2), ("repeats", 1), ("threads", 1), ("seed", 0)):
        if getattr(config, name) < least:
            raise ConfigError(f"{name} must be at least {least}, got {getattr(config, name)}")
    if not config.hidden_size or min(config.hidden_size) < 1:
        raise ConfigError(f"hidden_size must be at least 1, got {list(config.hidden_size)}")
    if config.quick:
        config = replace(config, hidden_size=(8,), batch_size=8, repeats=2)
    start = time.perf_counter()
    clock = CPU if config.threads == 1 else WALL
    machine = describe_machine()
    print_machine(config, machine, clock)
    names = list(SECTIONS) if config.what == "all" else [config.what]
    sections = [section for name in names for section in SECTIONS[name](config)]
    of_plots = [] if config.plots is None else sweep.sections(config)
    results: dict[str, Measured] = {}
    with threads(config.threads):
        for section in sections + of_plots:
            results[section.key] = measure(
                section,
                rounds=config.repeats,
                clock=clock,
                least_seconds=0.0 if config.quick else LEAST_SECONDS,
                wanted=lambda name: any(word.lower() in name.lower() for word in config.only or ("",)),
            )
            print_section(results[section.key])
    # A word behind `rlparse bench` is held against its own figures only.
    kinds = {section.key.partition("/")[0] for section in sections}
    void = why_not_judged(config)
    verdicts = [
        judge(target, results, void=void) for target in TARGETS if target.key.partition("/")[0] in kinds
    ]
    if verdicts:
        print_verdicts(verdicts)
    seconds = time.perf_counter() - start
    say(f"{seconds:.0f} s in all")
    if config.json is not None:
        record = {
            "machine": machine,
            "settings": as_json(config),
            "clock": clock.name,
            "seconds": seconds,
            "sections": [measured.as_json() for measured in results.values()],
            "targets": [verdict.as_json() for verdict in verdicts],
        }
        write_json(config.json, record)
        say(f"written: {config.json}")
    if config.plots is not None:
        write_plots(config, config.plots, results, clock, machine)
    return 0


def why_not_judged(config: BenchConfig) -> str:
    """Say why the figures to reach are not about these settings; nothing if they are."""
    if config.quick:
        return "--quick measures nothing"
    usual = BenchConfig()
    if (config.batch_size, config.threads) != (usual.batch_size, usual.threads):
        return f"the figures are for batches of {usual.batch_size} sentences and {usual.threads} thread"
    return ""


def write_plots(
    config: BenchConfig, folder: Path, results: Mapping[str, Measured], clock: Clock, machine: dict[str, Any]
) -> None:
    """Draw throughput against batch size, hidden size and length, as PNG and SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    used = f"{config.threads} thread{'s' if config.threads > 1 else ''}"
    title = f"{machine['processor']}, {used}, torch {machine['torch']}"
    for axis in sweep.axes(config):
        files = [folder / f"{axis.key}.{kind}" for kind in ("png", "svg")]
        plot_axis(axis, results, clock, title, files)
        say(f"written: {files[0]}, {files[1]}")
