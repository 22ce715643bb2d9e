"""``rlparse bench``: measure sections, hold them against the figures to reach, print and write everything."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from rlparse.checkpoint import write_json
from rlparse.errors import ConfigError
from rlparse_experiments.bench import encoder
from rlparse_experiments.bench.machine import describe_machine, threads
from rlparse_experiments.bench.measuring import CPU, LEAST_SECONDS, WALL, Measured, Section, measure
from rlparse_experiments.bench.report import print_machine, print_section, print_verdicts, say
from rlparse_experiments.bench.targets import TARGETS, judge
from rlparse_experiments.config import BenchConfig, as_json

SECTIONS: dict[str, Callable[[BenchConfig], list[Section]]] = {"encoder": encoder.sections}
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
    results: dict[str, Measured] = {}
    names = list(SECTIONS) if config.what == "all" else [config.what]
    with threads(config.threads):
        for section in (section for name in names for section in SECTIONS[name](config)):
            measured = measure(
                section,
                rounds=config.repeats,
                clock=clock,
                least_seconds=0.0 if config.quick else LEAST_SECONDS,
                wanted=lambda name: any(word.lower() in name.lower() for word in config.only or ("",)),
            )
            results[section.key] = measured
            print_section(measured)
    verdicts = [judge(target, results) for target in TARGETS]
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
        print(f"written: {config.json}")
    return 0
