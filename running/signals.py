"""Stops a run between two steps instead of within a step."""

import signal
import sys
import threading
from types import FrameType
from typing import Any

from .exit_codes import ExitCode

EXIT_CODES = {
    signal.SIGTERM: ExitCode.RESUMABLE,
    signal.SIGUSR2: ExitCode.RESUMABLE,
    signal.SIGHUP: ExitCode.RESUMABLE,
    signal.SIGINT: ExitCode.INTERRUPTED,
}


AGAIN = "Stopping after the current step. Press Ctrl-C again to stop at once."


class StopSignals:
    """A context in which the signals of `EXIT_CODES` only set `received`.

    The loop reads `received` between two steps. A second Ctrl-C raises `KeyboardInterrupt` as
    usual, because a step may take long, for example while it compiles. If SIGHUP is ignored, as
    under `nohup`, it stays ignored. Outside the main thread Python allows no signal handlers, so
    the context does nothing there.
    """

    received: signal.Signals | None = None

    def __enter__(self) -> "StopSignals":
        self._previous: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in EXIT_CODES:
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = signal.Signals(number)
        if number == signal.SIGINT:
            print(AGAIN, file=sys.stderr, flush=True)
            signal.signal(signal.SIGINT, signal.default_int_handler)
