"""An iterator that runs ahead in a thread of its own."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

import jax

T = TypeVar("T")

AHEAD = 2
"""Items that wait to be taken. One would do for a steady source; the second evens others out."""
PATIENCE = 0.1
"""Seconds between two looks at whether anybody still waits."""


class _Raised(NamedTuple):
    error: BaseException


class Prefetched(Generic[T]):
    """Takes the items of an endless iterator in one background thread, a few ahead of their use.

    The thread ends when the context is left. If the iterator is long in returning then, it is not
    waited for: the thread ends when it returns, and does not keep the process alive.
    """

    def __init__(self, items: Iterator[T]):
        self._items = items
        self._queue: queue.Queue[T | _Raised] = queue.Queue(AHEAD)
        self._left = threading.Event()
        # The precision may be that of this thread alone.
        self._x64 = bool(jax.config.read("jax_enable_x64"))
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)

    def next(self, is_stopped: Callable[[], bool]) -> T | None:
        """The next item, as soon as it is there; None if `is_stopped` before that.

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
        except BaseException as error:  # it is raised where the items are taken
            self._put(_Raised(error))

    def _put(self, item: T | _Raised) -> bool:
        """Whether somebody still waits for items."""
        while not self._left.is_set():
            try:
                self._queue.put(item, timeout=PATIENCE)
            except queue.Full:
                continue
            return True
        return False
