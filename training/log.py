"""What a run says: to a person at once, and with its time to `train.log`."""

import contextlib
import datetime
from pathlib import Path
from typing import TextIO

from rich.console import Console

from . import hosts

LOG = "train.log"


class Log:
    """A console, and once there is a folder a file beside it, to which lines are appended.

    Of several processes only the first says anything but warnings.

    **Arguments:** `quiet`: the console shows warnings alone; the file gets everything.
    """

    def __init__(self, *, quiet: bool = False):
        self.console = Console(quiet=quiet or not hosts.is_first())
        self._warnings = Console(stderr=True)
        self._file: TextIO | None = None

    def open(self, folder: Path) -> None:
        """Write to `folder/train.log` from now on."""
        self._file = open(folder / LOG, "a", encoding="utf-8")  # noqa: SIM115 (held)

    def say(self, text: str) -> None:
        """One line."""
        say(self.console, text)
        self._note(text)

    def warn(self, text: str) -> None:
        """One line that `quiet` does not silence, on the standard error."""
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
            # What a full disk does not take has been said on the console.
            with contextlib.suppress(OSError):
                self._file.write(f"{now} {text}\n")
                self._file.flush()


def say(console: Console, text: str) -> None:
    """One plain line: no markup, colours or line breaks of the console's own."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
