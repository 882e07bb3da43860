"""Independent processes, of which a limited number runs at a time."""

import contextlib
import logging
import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from .signals import EXIT_CODES, StopSignals

log = logging.getLogger(__name__)
POLL_SECONDS = 0.2


class Stopped(Exception):
    """A stop signal came, and all processes have ended; `code` is the exit code."""

    def __init__(self, code: int):
        self.code = code


def run_processes(processes: Sequence[BaseProcess], at_once: int) -> None:
    """Run all `processes`, and wait for each, however it ends.

    A stop signal is passed on to the running processes, and no further process is started.

    **Raises:** `Stopped` after such a signal, when the last process has ended.
    """
    log.info(f"Launching {len(processes)} jobs, {at_once} at once")
    waiting, running = list(processes), list[BaseProcess]()
    with StopSignals() as stop:
        signal_sent = False
        try:
            while running or (waiting and not stop.received):
                if waiting and not stop.received and len(running) < at_once:
                    running.append(waiting.pop(0))
                    running[-1].start()
                    log.info(f"\t{running[-1].name}")
                    continue
                if stop.received and not signal_sent:
                    _send(running, stop.received)
                    signal_sent = True
                for process in _wait_for_ended(running):
                    running.remove(process)
                    process.join()
                    log.info(f"\t{process.name} : {_describe_exit(process)}")
        except KeyboardInterrupt:  # a second Ctrl-C, see `StopSignals`
            started = [process for process in running if process.pid is not None]
            _send(started, signal.SIGINT)
            for process in started:
                process.join()
        if stop.received:
            raise Stopped(EXIT_CODES[stop.received])


def _wait_for_ended(running: Sequence[BaseProcess]) -> list[BaseProcess]:
    """Wait for an ended process, but only briefly: a signal handler does not end the wait."""
    ended = wait([process.sentinel for process in running], POLL_SECONDS)
    return [process for process in running if process.sentinel in ended]


def _send(processes: Sequence[BaseProcess], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            assert process.pid is not None, "it was started"
            os.kill(process.pid, number)


def _describe_exit(process: BaseProcess) -> str:
    code = process.exitcode or 0
    return f"ended by {signal.Signals(-code).name}" if code < 0 else "over"
