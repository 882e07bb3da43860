"""Reads an iterator ahead of its use, in a separate thread."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

import jax

T = TypeVar("T")

AHEAD = 2
"""The length of the queue. One is enough for a steady source; two also for an uneven one."""
PATIENCE = 0.1
"""Seconds between two checks for a stop."""


class _Raised(NamedTuple):
    error: BaseException


class Prefetched(Generic[T]):
    """Takes the items of an endless iterator in one background thread, a few ahead of their use.

    The thread ends when the context is left. If the iterator does not return within a second, it is
    not waited for: the thread ends when the iterator returns. As a daemon thread it does not keep
    the process alive.
    """

    def __init__(self, items: Iterator[T]):
        self._items = items
        self._queue: queue.Queue[T | _Raised] = queue.Queue(AHEAD)
        self._left = threading.Event()
        # `jax.enable_x64` as a context holds for one thread only: the new thread gets it anew.
        self._x64 = bool(jax.config.read("jax_enable_x64"))
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)

    def next(self, is_stopped: Callable[[], bool]) -> T | None:
        """Wait for the next item and return it; None if `is_stopped` becomes true before.

        **Raises:** what the iterator has raised.
        """
        while not is_stopped():
            try:
                item = self._queue.get(timeout=PATIENCE)
            except queue.Empty:
                continue
            if isinstance(item, _Raised):
                raise item.error
            return item
        return None

    def __enter__(self) -> "Prefetched[T]":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._left.set()
        self._thread.join(10 * PATIENCE)

    def _run(self) -> None:
        try:
            with jax.enable_x64(self._x64):
                for item in self._items:
                    if not self._put(item):
                        return
        except BaseException as error:  # `next` raises it
            self._put(_Raised(error))

    def _put(self, item: T | _Raised) -> bool:
        """Put an item into the queue; False if the context is left before there is room."""
        while not self._left.is_set():
            try:
                self._queue.put(item, timeout=PATIENCE)
            except queue.Full:
                continue
            return True
        return False
