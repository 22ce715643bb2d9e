"""Take things from an iterator ahead of their use, in a thread of their own."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class _Shelf(Generic[T]):
    """What the thread has made and nobody has taken yet, with the lock of both.

    The thread knows its shelf but not the `Prefetcher`, which can so be collected while the thread waits.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.changed = threading.Condition()
        self.ready: deque[T] = deque()
        self.ended = False
        self.error: BaseException | None = None
        self.closed = False

    def fill(self, items: Iterator[T]) -> None:
        """Run the thread: make the next item whenever there is room for it."""
        try:
            while self._has_room():
                item = next(items)
                with self.changed:
                    self.ready.append(item)
                    self.changed.notify_all()
                del item  # or the thread would keep alive what was taken
        except StopIteration:
            pass
        except BaseException as error:  # whatever it is, it belongs to the one who waits
            self.error = error
        finally:
            with self.changed:
                self.ended = True
                self.changed.notify_all()

    def _has_room(self) -> bool:
        """Wait at a full shelf until half of it has been taken: few long turns disturb others less than many."""
        with self.changed:
            if len(self.ready) >= self.size:
                self.changed.wait_for(lambda: self.closed or self._is_low())
            return not self.closed

    def _is_low(self) -> bool:
        return len(self.ready) <= self.size // 2

    def take(self) -> T:
        """Wait for the next item; raise what ended the thread once nothing is left before it."""
        with self.changed:
            self.changed.wait_for(lambda: self.ready or self.ended or self.closed)
            if self.ready and not self.closed:
                item = self.ready.popleft()
                if self._is_low():
                    self.changed.notify_all()
                return item
            error, self.error = self.error, None
        if error is None or self.closed:
            raise StopIteration
        raise error

    def close(self) -> None:
        """Tell the thread to stop, and drop what it has made."""
        with self.changed:
            self.closed = True
            self.ready.clear()
            self.changed.notify_all()


def _stop(shelf: _Shelf[T], thread: threading.Thread) -> None:
    shelf.close()
    if thread is not threading.current_thread():  # the garbage collector runs in any thread
        thread.join()


class Prefetcher(Iterator[T]):
    """Give the items of an iterator in their order, a few of them made ahead by a thread.

    The thread starts at once. It ends when the iterator does, at ``close``, when the prefetcher is not used any
    more, and when the interpreter exits; it has always ended after ``close``, which waits for an item being
    made. An exception of the iterator is raised by ``next`` after the items before it, with the traceback of
    the thread. A signal that interrupts ``next`` while it waits loses nothing; one that comes just as an item is
    handed over can lose that item.

    Args:
        items: Used by the thread alone from now on.
        ahead: Items to have ready at most; the thread goes on when half of them have been taken.

    Raises:
        ValueError: ``ahead`` < 1.

    Example:
        >>> with Prefetcher(str(n) for n in range(3)) as texts:
        ...     list(texts)
        ['0', '1', '2']
    """

    def __init__(self, items: Iterator[T], *, ahead: int = 2) -> None:
        if ahead < 1:
            raise ValueError(f"ahead must be at least 1, got {ahead}")
        self._shelf: _Shelf[T] = _Shelf(ahead)
        thread = threading.Thread(
            target=self._shelf.fill, args=(items,), name="rlparse-prefetch", daemon=True
        )
        # A daemon, so that nothing waits for it before this is called at the exit of the interpreter.
        self._stop = weakref.finalize(self, _stop, self._shelf, thread)
        thread.start()

    def __next__(self) -> T:
        """Wait for the next item, if it is not ready."""
        return self._shelf.take()

    def close(self) -> None:
        """Stop the thread and drop what nobody has taken; ``next`` raises StopIteration from now on."""
        self._stop()

    def __enter__(self) -> Self:
        """Close at the end of the block."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()
