"""The processes of a run, each with devices of its own: on several hosts, or on one.

They are started by SLURM's `srun`, by Open MPI's `mpirun`, or one by one, see `running.place`. All
of them run the same program at the same time. What one of them alone knows, it tells the others
through the service that JAX has in process 0.
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

# Private, as it is to Orbax, which uses it too: the public face has no way to say a word.
from jax._src.distributed import global_state

from running import ADDRESS, ExitCode, HostsError, place

from .device import check_devices

T = TypeVar("T")
HEARTBEAT_SECONDS = 30
"""A process that has been silent for so long counts as dead."""
WATCH_SECONDS = 0.5
LEAVE_SECONDS = 5.0
"""Process 0 has the service, and so leaves last: it gives the others so long."""
FOREVER = 7 * 24 * 3600 * 1000
"""In milliseconds. Whoever waits so long for a process that has died is ended before."""
ENDED = "curvature/ended"
DIED = "Another process of the run has ended, and so does this one; `resume=FOLDER` goes on."
ABORTED = (
    "Another process of the run has ended, or this one had a reason, which is in the lines above; "
    "`resume=FOLDER` goes on."
)


class Disagreement(ValueError):
    """What another process, or this one, has refused; all of them raise it."""


_turns = itertools.count()
"""Numbers the words that are exchanged; all processes count alike."""
_joined = threading.Event()
_over = threading.Event()
_ends_alone = threading.Event()
_kept: list[Any] = []
"""What C calls, which must not be collected."""


def count() -> int:
    """How many processes there are."""
    return global_state.num_processes if _joined.is_set() else 1


def index() -> int:
    """The number of this one, from 0."""
    return global_state.process_id if _joined.is_set() else 0


def is_first() -> bool:
    """Whether this is the process that writes the run folder."""
    return index() == 0


def prefix() -> str:
    """What a sentence of a process other than the first begins with."""
    return "" if is_first() else f"process {index()}: "


def join() -> None:
    """Join the other processes, if the environment says that there are any.

    Called before anything touches the devices, and waits for the others to be there.

    **Raises:** `HostsError`.
    """
    found = place(os.environ)
    if found is None or jax.distributed.is_initialized():
        return
    number, mine, devices = found
    # The service's own notice of SIGTERM would take the signal from `StopSignals`.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            num_processes=number,
            process_id=mine,
            local_device_ids=devices,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
        # The devices are found by all together: a process that ended before would be waited for.
        check_devices()
    except (ValueError, RuntimeError) as error:
        raise HostsError(
            f"Process {mine} of {number} did not meet the others: {str(error).splitlines()[0]} "
            f"`{ADDRESS}=HOST:PORT`, the same for all, names the host of process 0 and a port that "
            "is free there."
        ) from error
    _joined.set()
    _say_so_on_abort()
    threading.Thread(target=_watch, args=(_client(),), daemon=True).start()


def gathered(value: T) -> list[T]:
    """The values of all processes, by their numbers; what JSON can hold.

    Called by all, in the same order.
    """
    if count() == 1:
        return [value]
    client, turn = _client(), next(_turns)
    client.key_value_set(f"curvature/{turn}/{index()}", json.dumps(value))
    keys = [f"curvature/{turn}/{number}" for number in range(count())]
    return [json.loads(client.blocking_key_value_get(key, FOREVER)) for key in keys]


def of_first(value: T) -> T:
    """The value of process 0."""
    return gathered(value if is_first() else None)[0]  # pyright: ignore[reportReturnType]


def together(attempt: Callable[[], T]) -> T:
    """What `attempt` returns here, provided that it raises in no process.

    **Raises:** what it raises, in one process alone. In several, `Disagreement` with the sentence
    of the first of those in which it raises.
    """
    if count() == 1:
        return attempt()
    said, result, cause = None, None, None
    try:
        result = attempt()
    except Exception as error:
        said, cause = " ".join(str(error).split()) or type(error).__name__, error
    for number, sentence in enumerate(gathered(said)):
        if sentence is not None:
            raise Disagreement(sentence if number == 0 else f"process {number}: {sentence}") from (
                cause if number == index() else None
            )
    return result  # pyright: ignore[reportReturnType]


def ends_alone(code: int) -> bool:
    """Tell the others that this process cannot go on with them; they end with the same exit code.

    **Returns:** whether there is anything to say: where another has told it before, it has said
    why.
    """
    if count() == 1:
        return True
    _ends_alone.set()
    try:
        _client().key_value_set(ENDED, str(code))
    except jax.errors.JaxRuntimeError as error:
        return "ALREADY_EXISTS" not in str(error)  # otherwise process 0 is gone, and silent
    return True


def leave(code: int) -> int:
    """Leave the other processes, as the last thing that is done; returns the exit code."""
    if count() == 1:
        return code
    if _ends_alone.is_set():
        _vanish(code)
    code = of_first(code)
    _over.set()
    jax.distributed.shutdown()
    return code


def is_of_another(error: Exception) -> bool:
    """Whether `error` says that another process is gone."""
    return count() > 1 and "Gloo" in str(error)


def _client() -> Any:
    assert global_state.client is not None
    return global_state.client


def _watch(client: Any) -> None:
    """End this process where another has told that it ends: it may be waited for in vain."""
    while not _over.wait(WATCH_SECONDS):
        try:
            code = int(client.key_value_try_get(ENDED))
        except jax.errors.JaxRuntimeError:  # none has
            continue
        if is_first():  # what it computes fails as well, and has a summary then
            _over.wait(LEAVE_SECONDS)
        if not _ends_alone.is_set():
            _vanish(code)
        return


def _vanish(code: int) -> NoReturn:
    """End at once, process 0 after the others: its service is what ends them in good order."""
    sys.stdout.flush()
    sys.stderr.flush()
    client, until = _client(), time.monotonic() + LEAVE_SECONDS
    for number in range(1, count()) if is_first() else ():
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # of one that has died
            left = max(1, int(1000 * (until - time.monotonic())))
            client.blocking_key_value_get(f"{ENDED}/{number}", left)
    if not is_first():
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            client.key_value_set(f"{ENDED}/{index()}", str(code))
    os._exit(code)


def _say_so_on_abort() -> None:
    """Have a sentence follow the log with which JAX aborts when a process has died silently."""

    def aborted(number: int) -> None:
        del number
        os.write(sys.stderr.fileno(), f"{prefix()}{ABORTED}\n".encode())
        os._exit(ExitCode.FAILED)

    # In C: Python's own handlers wait for the main thread, which `abort` does not.
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
    _kept.append(handler)
