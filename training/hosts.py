"""The processes of a run, each with devices of its own: on several hosts, or on one.

They are started by SLURM's `srun`, by Open MPI's `mpirun`, or one by one, see `running.place`. All
of them run the same program at the same time. They exchange Python values through the key-value
store of JAX's distributed service, which runs in process 0.
"""

import contextlib
import ctypes
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import jax

# Private: JAX's public API gives no access to the key-value store. Orbax uses this module, too.
from jax._src.distributed import global_state

from running import ADDRESS, ExitCode, HostsError, place

from .device import check_devices

T = TypeVar("T")
HEARTBEAT_SECONDS = 30
"""A process without a heartbeat for this long counts as dead."""
WATCH_SECONDS = 0.5
LEAVE_SECONDS = 5.0
"""Process 0 runs the service, so it exits last: it waits at most this long for the others."""
FOREVER = 7 * 24 * 3600 * 1000
"""A timeout in milliseconds. `_watch` or JAX ends a process that waits for a dead one earlier."""
ENDED = "curvature/ended"
DIED = (
    "Another process of the run has ended, so this process ends too. Continue the run with "
    "`resume=FOLDER`."
)
ABORTED = (
    "Another process of the run has ended, or this process failed for the reason in the lines "
    "above. Continue the run with `resume=FOLDER`."
)


class Disagreement(ValueError):
    """Raised in all processes when `call_on_all` has failed in one of them."""


_exchange_numbers = itertools.count()
"""The number of each exchange. All processes make the same exchanges, so their numbers agree."""
_joined = threading.Event()
_finished = threading.Event()
_announced = threading.Event()
_c_callbacks: list[Any] = []
"""Functions that C code calls; these references prevent their garbage collection."""


def count() -> int:
    """The number of processes."""
    return global_state.num_processes if _joined.is_set() else 1


def index() -> int:
    """The index of this process, from 0."""
    return global_state.process_id if _joined.is_set() else 0


def is_first() -> bool:
    """Whether this is the process that writes the run folder."""
    return index() == 0


def prefix() -> str:
    """The prefix of messages from this process; empty in the first process."""
    return "" if is_first() else f"process {index()}: "


def join() -> None:
    """Connect to the other processes, if the environment variables define any.

    Called before anything uses the devices. Waits until all processes have connected.

    **Raises:** `HostsError`; `ValueError` if a device is missing.
    """
    found = place(os.environ)
    if found is None or jax.distributed.is_initialized():
        return
    number, mine, devices = found
    # JAX's preemption service would handle SIGTERM itself, and `StopSignals` would not receive it.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            num_processes=number,
            process_id=mine,
            local_device_ids=devices,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise HostsError(
            f"Process {mine} of {number} could not connect to the others: "
            f"{str(error).splitlines()[0]} Set `{ADDRESS}=HOST:PORT` in all processes, with the "
            "host of process 0 and a free port on this host."
        ) from error
    # Initialising the devices is collective: the others would wait for a process that has ended
    # before it.
    check_devices()
    _joined.set()
    _explain_abort()
    threading.Thread(target=_watch, args=(_client(),), daemon=True).start()


def gather(value: T) -> list[T]:
    """The values of all processes, in the order of their indices; values must be plain JSON.

    All processes call it, in the same order.
    """
    if count() == 1:
        return [value]
    client, turn = _client(), next(_exchange_numbers)
    client.key_value_set(f"curvature/{turn}/{index()}", json.dumps(value))
    keys = [f"curvature/{turn}/{number}" for number in range(count())]
    return [json.loads(client.blocking_key_value_get(key, FOREVER)) for key in keys]


def broadcast(value: T) -> T:
    """The value of process 0."""
    return gather(value if is_first() else None)[0]  # pyright: ignore[reportReturnType]


def call_on_all(attempt: Callable[[], T]) -> T:
    """Call `attempt` in every process, and return its result if it has raised in none of them.

    **Raises:** with one process, what `attempt` raises. With several, all of them raise
    `Disagreement`, with the message of the first process in which `attempt` has raised.
    """
    if count() == 1:
        return attempt()
    message, result, cause = None, None, None
    try:
        result = attempt()
    except Exception as error:
        message, cause = " ".join(str(error).split()) or type(error).__name__, error
    for number, sentence in enumerate(gather(message)):
        if sentence is not None:
            raise Disagreement(sentence if number == 0 else f"process {number}: {sentence}") from (
                cause if number == index() else None
            )
    return result  # pyright: ignore[reportReturnType]


def announce_end(code: int) -> bool:
    """Announce that this process ends; the others then end with the same exit code.

    **Returns:** whether this process should report its error. False if another process has
    announced its end before: that process has reported the reason.
    """
    if count() == 1:
        return True
    _announced.set()
    try:
        _client().key_value_set(ENDED, str(code))
    except jax.errors.JaxRuntimeError as error:
        return "ALREADY_EXISTS" not in str(error)  # else process 0 is gone, unreported
    return True


def leave(code: int) -> int:
    """Disconnect, as the last action of the process; returns the exit code of process 0."""
    if count() == 1:
        return code
    if _announced.is_set():
        _exit_now(code)
    code = broadcast(code)
    _finished.set()
    jax.distributed.shutdown()
    return code


def is_failure_of_another(error: Exception) -> bool:
    """Whether `error` means that another process is gone: a collective by Gloo has failed."""
    return count() > 1 and "Gloo" in str(error)


def _client() -> Any:
    assert global_state.client is not None
    return global_state.client


def _watch(client: Any) -> None:
    """End this process when another announces its end: a collective would wait for it for ever."""
    while not _finished.wait(WATCH_SECONDS):
        try:
            code = int(client.key_value_try_get(ENDED))
        except jax.errors.JaxRuntimeError:  # no process has announced its end
            continue
        if is_first():  # its own step fails, too: wait until it has written the summary
            _finished.wait(LEAVE_SECONDS)
        if not _announced.is_set():
            _exit_now(code)
        return


def _exit_now(code: int) -> NoReturn:
    """Exit immediately; process 0 exits after the others, because they need its service."""
    sys.stdout.flush()
    sys.stderr.flush()
    client, until = _client(), time.monotonic() + LEAVE_SECONDS
    for number in range(1, count()) if is_first() else ():
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # it is dead
            left = max(1, int(1000 * (until - time.monotonic())))
            client.blocking_key_value_get(f"{ENDED}/{number}", left)
    if not is_first():
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            client.key_value_set(f"{ENDED}/{index()}", str(code))
    os._exit(code)


def _explain_abort() -> None:
    """Print a sentence after JAX's log when JAX aborts because a process has died silently."""

    def aborted(number: int) -> None:
        del number
        os.write(sys.stderr.fileno(), f"{prefix()}{ABORTED}\n".encode())
        os._exit(ExitCode.FAILED)

    # A handler in C: Python runs its handlers later, in the main thread, and `abort` does not wait.
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
    _c_callbacks.append(handler)
