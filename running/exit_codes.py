"""The exit codes that tell the shell and a scheduler how a run ended."""

import enum


class ExitCode(enum.IntEnum):
    """The exit codes of `train.py`; these numbers are written nowhere else in the project."""

    FINISHED = 0
    FAILED = 1
    """Failed or diverged."""
    BAD_CONFIGURATION = 2
    """Refused before anything was written."""
    RESUMABLE = 75
    """Stopped by SIGTERM, SIGUSR2 or SIGHUP, after a checkpoint (`EX_TEMPFAIL`: try again)."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C (128 + SIGINT)."""
