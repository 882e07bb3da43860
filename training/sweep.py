"""The results of a sweep: its table, its report, its exit code."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from running import ExitCode, sentence

from .folder import CONFIG, ERROR_LOG, SUMMARY
from .log import say
from .progress import wide_console

COLUMNS = ("status", "steps", "seconds", "train_loss", "test_loss")
KILLED = f"No {SUMMARY}: the process was killed by a signal, or ran out of memory."


class SweepJob(NamedTuple):
    """A job that a sweep is to run: its overrides, `key=value`, and its folder."""

    overrides: Sequence[str]
    folder: Path


class Sweep:
    """The jobs of a sweep; created before the first job starts.

    How a job ended is read from its folder. This works for a job in this process, in another
    process or on another machine, and for a job that was killed.

    **Arguments:** `folder`: of the sweep; `jobs`: called after the sweep, returns its jobs.
    """

    def __init__(self, folder: Path, jobs: Callable[[], Sequence[SweepJob]]):
        self._folder, self._jobs = folder, jobs
        # Files that an earlier launch has left in a folder must not count as results of this one.
        self._earlier = {_version(file) for n in (SUMMARY, ERROR_LOG) for file in folder.rglob(n)}

    def end(self) -> int:
        """Print the table, then report on the folder; returns the worst of the exit codes."""
        # Imported here: the plotting libraries take a second to import, and a single run does not
        # need them.
        from .report.runs import logged_error, read_run

        summaries: list[Mapping[str, Any]] = []
        jobs = self._jobs()
        for folder in (job.folder for job in jobs):
            if self._is_new(folder / SUMMARY):
                summaries.append(read_run(folder).summary)
            elif self._is_new(folder / ERROR_LOG):
                summaries.append({"status": "failed", "reason": logged_error(folder)})
            elif folder.is_dir():
                summaries.append({"status": "killed", "reason": KILLED})
            else:
                summaries.append({"status": "not started"})
        console = wide_console()
        console.print(sweep_table([job.overrides for job in jobs], summaries))
        _report(console, self._folder)
        codes = [summary.get("exit_code", ExitCode.FAILED) for summary in summaries]
        return max(codes, default=ExitCode.FAILED)

    def _is_new(self, file: Path) -> bool:
        version = _version(file)
        return version is not None and version not in self._earlier


def jobs_of_search(folder: Path, keys: Sequence[str]) -> list[SweepJob]:
    """The jobs of a sweep whose sweeper chose the values of `keys` during the sweep.

    The values are read from the configuration in a job's folder, if the job has written one.
    """
    found = [path for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()]
    return [
        SweepJob(_chosen_overrides(path / CONFIG, keys), path)
        for path in sorted(found, key=lambda path: int(path.name))
    ]


def _chosen_overrides(config: Path, keys: Sequence[str]) -> list[str]:
    if not config.is_file():
        return []
    values = yaml.safe_load(config.read_text(encoding="utf-8"))
    chosen = []
    for key in keys:
        value = values["choices"].get(key)  # a group
        if value is None:
            value = functools.reduce(lambda node, name: node[name], key.split("."), values)
        chosen.append(f"{key}={value}")
    return chosen


def sweep_table(jobs: Sequence[Sequence[str]], summaries: Sequence[Mapping[str, Any]]) -> Table:
    """The table of `jobs`, each given by its overrides, and of their results.

    An override that is the same in every job is left out, unless there is only one job.
    """
    rows = [
        {key: value for key, _, value in (text.partition("=") for text in overrides)}
        for overrides in jobs
    ]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    swept = [key for key in keys if len({row.get(key) for row in rows}) > 1]
    metrics = list(dict.fromkeys(name for summary in summaries for name in _test(summary)))
    reasons = [escape(summary.get("reason", "")) for summary in summaries]
    shown = swept or keys
    table = Table()
    for name in shown:
        table.add_column(name)
    for name in (*COLUMNS, *metrics):
        table.add_column(name.replace("_", " "), justify="right")
    if any(reasons):
        table.add_column("reason", overflow="fold")
    for row, summary, reason in zip(rows, summaries, reasons, strict=True):
        values = [summary.get(name) for name in COLUMNS]
        values += [_test(summary).get(name) for name in metrics]
        given = [escape(row.get(key, "")) for key in shown]
        table.add_row(*given, *map(_cell, values), *[reason] * any(reasons))
    return table


def _report(console: Console, folder: Path) -> None:
    """Write the report on a sweep; show its table if several jobs differ only by seed.

    A failure of the report is printed in one line: it must not end the sweep.
    """
    from .report import console_table, write_report

    try:
        report = write_report([folder])
    except Exception as error:
        say(console, f"No report: {sentence(error)}")
        return
    if any(row.runs > 1 for row in report.table):
        console.print(console_table(report.table))
    say(console, f"report {report.page}")


def _version(file: Path) -> tuple[int, int] | None:
    """The inode and the modification time, which identify a version of a file; None if missing."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _test(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    return summary.get("test") or {}


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
