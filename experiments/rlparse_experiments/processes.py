"""Run several commands at a time, each with a log of its own, and stop them kindly. No torch here."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from rlparse.errors import ConfigError

POLL_SECONDS = 0.1


class Task(NamedTuple):
    """One command to run.

    Attributes:
        name: For messages.
        command: Program and arguments.
        log: What it prints is appended here; locked while it runs.
    """

    name: str
    command: tuple[str, ...]
    log: Path


class Running(NamedTuple):
    """A command that runs."""

    task: Task
    process: subprocess.Popen[bytes]


def run_tasks(
    tasks: Sequence[Task],
    n_parallel: int,
    *,
    environment: Mapping[str, str] | None = None,
    started: Callable[[Task], None] = lambda task: None,
    ended: Callable[[Task, int], bool] = lambda task, code: True,
    waiting: Callable[[], None] = lambda: None,
) -> dict[str, int]:
    """Run commands, so many at a time, until all have ended.

    However this function is left, no command of it goes on: an exception (Ctrl-C) sends SIGTERM to those that run,
    which is how a training run is told to save itself, and waits for them; a second one kills them.

    Args:
        tasks: What to run, in this order.
        n_parallel: How many at a time.
        environment: Variables to set beside those of this process.
        started: Called when a command has begun.
        ended: Called with the exit code when it has ended; False begins no further ones.
        waiting: Called many times a second.

    Returns:
        Name to exit code of the commands that were begun; minus the signal's number where one ended it.

    Raises:
        ConfigError: Another process is running the command, as its log is locked.
    """
    left, running, codes = list(tasks), list[Running](), dict[str, int]()
    try:
        while left or running:
            while left and len(running) < n_parallel:
                task = left.pop(0)
                running.append(Running(task, _start(task, {**os.environ, **(environment or {})})))
                started(task)
            for each in list(running):
                code = each.process.poll()
                if code is not None:
                    running.remove(each)
                    codes[each.task.name] = code
                    if not ended(each.task, code):
                        left.clear()
            waiting()
            time.sleep(POLL_SECONDS)
    finally:
        _stop([each.process for each in running])
    return codes


def _start(task: Task, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("ab") as log:
        _lock(log, task)  # held by the command, which inherits the file, after it is closed here
        return subprocess.Popen(
            task.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,  # Ctrl-C reaches this process only, which tells the others
        )


def _lock(log: IO[bytes], task: Task) -> None:
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"{task.name} is being run by another process: {task.log} is locked") from None


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask all to end and wait until they have; kill them if that is interrupted."""
    try:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait()
    finally:
        for process in processes:
            process.kill()
            process.wait()
