"""Files that are whole or absent, whatever happens while they are written."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call `write(file)` on a temporary file beside `path`, then put it in `path`'s place.

    The file and its folder are synchronised, so that after a power failure `path` holds either
    what it held before or all of what was written.

    **Raises:** `OSError`, with `path` as it was and nothing left beside it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove what `write_atomically` had begun in `folder` when its process was killed."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)
