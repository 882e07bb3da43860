"""Runs jobs one after another; a job that fails is reported, and does not end the others."""

import contextlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from running import ExitCode, sentence, show

from . import hosts
from .folder import ERROR_LOG, SUMMARY, FolderInUseError, make_folder, write_summary

Summaries = Sequence[Mapping[str, Any]]


class Attempts:
    """Runs jobs one after another; every job leaves a `summary.json` in its folder.

    An exception in a job is not raised again: it is reported, and its traceback is written to
    `error.log` in the job's folder. If a job writes no `summary.json`, its summary, or the reason
    of its failure, is written there. After a job was stopped by a signal, later jobs in this
    process are not started.

    **Arguments:** `debug`: show tracebacks, too.
    """

    def __init__(self, *, debug: bool):
        self._debug = debug
        self.codes: list[int] = []
        """The exit codes of the jobs that ran in this process."""

    def run(self, folders: Sequence[Path], jobs: Callable[[], Summaries]) -> Summaries | None:
        """Call `jobs`, which runs the jobs of `folders` and returns their summaries.

        **Returns:** the summaries; None if the jobs were not started.
        """
        if any(code in (ExitCode.RESUMABLE, ExitCode.INTERRUPTED) for code in self.codes):
            return None
        writes = hosts.is_first()
        try:
            for folder in folders:  # errors are written there, too
                make_folder(folder)
            summaries = jobs()
        except KeyboardInterrupt:
            hosts.announce_end(ExitCode.INTERRUPTED)
            stopped = _summary_without_run(
                ExitCode.INTERRUPTED, "interrupted", "Stopped by Ctrl-C."
            )
            summaries = [stopped] * len(folders)
        except Exception as error:
            if isinstance(error, hosts.Disagreement) or hosts.announce_end(ExitCode.FAILED):
                report(error, debug=self._debug)
            failed = _summary_without_run(ExitCode.FAILED, "failed", sentence(error))
            summaries = [failed] * len(folders)
            writes = writes and not _is_in_use(error)
            for folder in folders if writes else ():
                with contextlib.suppress(OSError):  # a full disk, which has been reported
                    text = "".join(traceback.format_exception(error))
                    (folder / ERROR_LOG).write_text(text, encoding="utf-8")
        for folder, summary in zip(folders, summaries, strict=True):
            if writes and not (folder / SUMMARY).exists():
                with contextlib.suppress(OSError):
                    write_summary(folder, summary)
            self.codes.append(summary["exit_code"])
        return summaries


def report(error: BaseException, *, debug: bool) -> None:
    """Show `error` on stderr; an error of all processes together is shown by the first only."""
    if hosts.is_first() or not isinstance(error, hosts.Disagreement):
        show(error, debug=debug, prefix=hosts.prefix())


def _is_in_use(error: Exception) -> bool:
    """Whether the run folder belongs to another process; several processes have it as the cause."""
    return any(isinstance(each, FolderInUseError) for each in (error, error.__cause__))


def _summary_without_run(code: ExitCode, status: str, reason: str) -> dict[str, Any]:
    return {"status": status, "exit_code": int(code), "reason": reason}
