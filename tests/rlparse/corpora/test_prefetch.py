"""Prefetching changes when things are made, not what is given, and leaves no thread behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import weakref
from collections.abc import Iterator

import pytest

from rlparse.corpora.prefetch import Prefetcher

SOON = 10.0  # seconds; far more than anything here takes


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "rlparse-prefetch"]


def wait_until(condition) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    gc.collect()
    wait_until(lambda: not threads())
    yield
    gc.collect()
    wait_until(lambda: not threads())


class Counter(Iterator[int]):
    """Counts from 0, and knows how far it was asked to and by which thread."""

    def __init__(self, end: float = float("inf")) -> None:
        self.made = 0
        self.end = end
        self.thread: threading.Thread | None = None

    def __next__(self) -> int:
        self.thread = threading.current_thread()
        if self.made == self.end:
            raise StopIteration
        self.made += 1
        return self.made - 1


@pytest.mark.parametrize("ahead", [1, 2, 7])
@pytest.mark.parametrize("n", [0, 1, 5, 200])
def test_every_item_is_given_once_and_in_order(n, ahead):
    with Prefetcher(Counter(n), ahead=ahead) as items:
        assert list(items) == list(range(n))
        assert list(items) == []


def test_a_slow_maker_and_a_slow_taker_lose_nothing():
    def slow(n: int) -> Iterator[int]:
        for i in range(n):
            time.sleep(0.002 * (i % 3 == 0))
            yield i

    taken = []
    with Prefetcher(slow(30)) as items:
        for item in items:
            time.sleep(0.002 * (item % 5 == 0))
            taken.append(item)
    assert taken == list(range(30))


@pytest.mark.parametrize(
    ("ahead", "made"),  # after 0, 1, 2, … were taken
    [(1, [1, 2, 3, 4, 5]), (2, [2, 3, 4, 5, 6]), (4, [4, 4, 6, 6, 8]), (5, [5, 5, 5, 8, 8, 8, 11])],
)
def test_so_many_items_are_made_ahead_and_no_more(ahead, made):
    counter = Counter()
    with Prefetcher(counter, ahead=ahead) as items:
        for taken, expected in enumerate(made):
            wait_until(lambda expected=expected: counter.made == expected)
            time.sleep(0.01)
            assert counter.made == expected
            assert next(items) == taken
        assert counter.thread in threads()


def test_at_least_one_item_has_to_be_ahead():
    with pytest.raises(ValueError, match="ahead must be at least 1, got 0"):
        Prefetcher(Counter(), ahead=0)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_comes_after_what_was_made_before_it_with_its_traceback(kind):
    def breaks() -> Iterator[int]:
        yield 0
        yield 1
        raise kind("the disk is gone")

    items = Prefetcher(breaks())
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(kind, match="the disk is gone") as caught:
        next(items)
    assert "breaks" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    with pytest.raises(StopIteration):  # as of a generator that has raised
        next(items)


def test_close_stops_the_thread_whatever_it_does():
    waiting, idle = Prefetcher(Counter()), Prefetcher(Counter(0))
    started, go_on = threading.Event(), threading.Event()

    def busy() -> Iterator[int]:
        started.set()
        go_on.wait(SOON)
        yield 0

    working = Prefetcher(busy())
    started.wait(SOON)
    threading.Timer(0.05, go_on.set).start()
    for items in (waiting, idle, working):
        items.close()
        items.close()
        with pytest.raises(StopIteration):
            next(items)
    assert not threads()


def test_what_breaks_while_it_is_closed_is_not_raised():
    started, go_on = threading.Event(), threading.Event()

    def breaks() -> Iterator[int]:
        started.set()
        go_on.wait(SOON)
        yield from ()
        raise ValueError

    items = Prefetcher(breaks())
    started.wait(SOON)
    threading.Timer(0.05, go_on.set).start()
    items.close()
    with pytest.raises(StopIteration):
        next(items)


def test_a_forgotten_prefetcher_is_collected_with_its_thread_and_its_items():
    class Item:
        pass

    def make() -> Iterator[Item]:
        while True:
            yield Item()

    items = Prefetcher(make())
    taken = weakref.ref(next(items))
    gc.collect()
    assert taken() is None  # the thread keeps nothing that was taken
    assert len(threads()) == 1
    del items
    gc.collect()
    wait_until(lambda: not threads())


def test_garbage_that_the_thread_itself_collects_stops_it():
    lost = threading.Event()

    def collects() -> Iterator[int]:
        yield 0
        lost.wait(SOON)
        gc.collect()
        yield 1

    items = Prefetcher(collects())
    assert next(items) == 0
    cycle: list[object] = [items]
    cycle.append(cycle)  # so that only the collector finds it
    gc.disable()
    try:
        del items, cycle
        lost.set()
        wait_until(lambda: not threads())
    finally:
        gc.enable()


def test_next_that_was_interrupted_while_it_waited_loses_nothing():
    go_on = threading.Event()

    def waits() -> Iterator[int]:
        yield 0
        go_on.wait(SOON)
        yield 1

    with Prefetcher(waits()) as items:
        assert next(items) == 0
        main = threading.main_thread().ident
        assert main is not None
        threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            next(items)
        go_on.set()
        assert list(items) == [1]


ENDINGS = {
    "the end of the script": ("", 0),
    "an exception": ("raise SystemExit(3)", 3),
    "an interrupt": ("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", -signal.SIGINT),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_interpreter_exits_while_threads_wait(ending):
    code, status = ENDINGS[ending]
    script = f"""
        import itertools, os, signal, time
        from rlparse.corpora.prefetch import Prefetcher
        items = Prefetcher(itertools.count())
        cycle = [Prefetcher(itertools.count())]
        cycle.append(cycle)
        print(next(items), next(cycle[0]), flush=True)
        {code}
    """
    # The same packages as here, installed or not.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (status, "0 0\n")
    assert "Fatal" not in done.stderr
