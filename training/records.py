"""`metrics.jsonl`: one JSON object per step, on disk as soon as the step is known."""

import itertools
import json
import math
import os
from pathlib import Path
from typing import Any, BinaryIO

from .folder import FolderError, finite_or_null, taken


class Records:
    """The open file. A step is one flushed line, so that a crash can only cut the last one."""

    def __init__(self, file: BinaryIO):
        self._file = file

    @classmethod
    def create(cls, path: Path) -> "Records":
        """Start a new file. Of two runs that race for one folder, one gets the file.

        **Raises:** `FolderError` where there is one already.
        """
        try:
            return cls(open(path, "xb"))
        except FileExistsError:
            raise FolderError(taken(path.parent)) from None

    @classmethod
    def resume(cls, path: Path, steps: int) -> "Records":
        """Continue a file after step number `steps`; later lines and a cut one are dropped."""
        path.touch()
        with open(path, "r+b") as file:
            kept = itertools.takewhile(lambda line: _step(line) <= steps, file.readlines())
            file.truncate(sum(map(len, kept)))
        return cls(open(path, "ab"))

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; numbers that are not finite become null."""
        line = json.dumps(finite_or_null(record), ensure_ascii=False, allow_nan=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()

    def synchronise(self) -> None:
        """Make what was written survive a power failure, as a checkpoint written next does."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def _step(line: bytes) -> float:
    """The step of a line, or infinity where the line was cut."""
    if not line.endswith(b"\n"):
        return math.inf
    return json.loads(line)["step"]
