"""`metrics.jsonl`: one JSON object per step, written as soon as the step is finished."""

import fcntl
import itertools
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

from .folder import FolderError, FolderInUseError, finite_or_null, holds_run_message


class Records:
    """The open file. Each step is one line, flushed at once: a crash can cut only the last line."""

    def __init__(self, file: BinaryIO):
        self._file = file

    @classmethod
    def create(cls, path: Path) -> "Records":
        """Start a new file. If two runs race for one folder, only one of them gets the file.

        **Raises:** `FolderError` if the file exists already, or if it cannot be made.
        """
        try:
            # `x`: the operating system creates the file only if it does not exist, atomically.
            file = open(path, "xb")  # noqa: SIM115 (held)
        except FileExistsError:
            raise FolderInUseError(holds_run_message(path.parent)) from None
        except OSError as error:
            raise FolderError(_write_error(path, error)) from error
        return cls._lock(file, path)

    @classmethod
    def nowhere(cls) -> "Records":
        """Records that are discarded, for the processes that do not write the run folder."""
        return cls(tempfile.TemporaryFile())

    @classmethod
    def reopen(cls, path: Path) -> "Records":
        """Open an existing file, or start it if there is none; see `rewind`.

        **Raises:** `FolderError` while another process writes to it, or if it cannot be written.
        """
        try:
            file = open(path, "a+b")  # noqa: SIM115 (held)
        except OSError as error:
            raise FolderError(_write_error(path, error)) from error
        return cls._lock(file, path)

    @classmethod
    def _lock(cls, file: BinaryIO, path: Path) -> "Records":
        # The operating system releases the lock when the process ends, even if it is killed.
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise FolderInUseError(
                f"Another process is using the run folder `{path.parent}`. Wait until it ends, "
                "or stop it, before you resume the run."
            ) from None
        except OSError as error:
            file.close()
            raise FolderError(
                f"Cannot lock `{path}`: {error.strerror}. Use a file system with locks."
            ) from error
        return cls(file)

    def rewind(self, steps: int) -> int:
        """Drop all lines after step number `steps`, and a last line that is incomplete.

        **Returns:** the number of the last step that is kept; it is less than `steps` if records
        are missing.
        """
        self._file.seek(0)
        lines = self._file.readlines()
        kept = list(itertools.takewhile(lambda line: _step(line) <= steps, lines))
        self._file.truncate(sum(map(len, kept)))
        return int(_step(kept[-1])) if kept else 0

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; numbers that are not finite become null."""
        line = json.dumps(finite_or_null(record), ensure_ascii=False, allow_nan=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()

    def synchronise(self) -> None:
        """Force the records to disk: after a power failure no checkpoint is then ahead of them."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            self._file.close()
        except OSError:  # a full disk, which was reported when `write` raised
            if kind is None:
                raise


def _step(line: bytes) -> float:
    """The step of a line; infinity if the line is incomplete or invalid."""
    if not line.endswith(b"\n"):
        return math.inf
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf


def _write_error(path: Path, error: OSError) -> str:
    return f"Cannot write to the run folder `{path.parent}`: {error.strerror}."
