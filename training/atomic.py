"""Atomic writes: after a crash, a file has either its old or its complete new content."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call `write(file)` on a temporary file beside `path`, then put it in `path`'s place.

    The file and its folder are synchronised. So after a power failure `path` has either its old
    content or the complete new one.

    **Raises:** `OSError`; then `path` is unchanged and the temporary file is removed.
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
    # The new name is an entry of the folder: without this, a power failure may undo the renaming.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of `write_atomically` in `folder` that a killed process left."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)
