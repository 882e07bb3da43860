"""Messages of a run: printed on the console, and written with a time stamp to `train.log`."""

import contextlib
import datetime
from pathlib import Path
from typing import TextIO

from rich.console import Console

from . import hosts

LOG = "train.log"


class Log:
    """Writes lines to the console and, after `open`, to a log file.

    With several processes, only the first prints lines that are not warnings.

    **Arguments:** `quiet`: the console shows only warnings; the file gets everything.
    """

    def __init__(self, *, quiet: bool = False):
        self.console = Console(quiet=quiet or not hosts.is_first())
        self._warnings = Console(stderr=True)
        self._file: TextIO | None = None

    def open(self, folder: Path) -> None:
        """Write to `folder/train.log` from now on."""
        self._file = open(folder / LOG, "a", encoding="utf-8")  # noqa: SIM115 (held)

    def say(self, text: str) -> None:
        """Write one line."""
        say(self.console, text)
        self._note(text)

    def warn(self, text: str) -> None:
        """Write a warning to stderr, even if `quiet`."""
        say(self._warnings, f"{hosts.prefix()}{text}")
        self._note(f"warning: {text}")

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()

    def _note(self, text: str) -> None:
        if self._file is not None:
            now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            # If the disk is full, the line is at least on the console.
            with contextlib.suppress(OSError):
                self._file.write(f"{now} {text}\n")
                self._file.flush()


def say(console: Console, text: str) -> None:
    """Print one plain line, without the console's markup, colours and line breaks."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
