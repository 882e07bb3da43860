"""The display of a run: a bar on a terminal, else a few lines; and the summary at the end."""

import math
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from .log import Log
from .summary import Summary

REFRESH_SECONDS = 0.25
LINES = 10
"""The number of lines of progress that a run prints without a terminal."""
LINE_SECONDS = 60.0
"""The longest time between two lines: a long run writes more than `LINES`."""
WIDTH_OF_A_PIPE = 200


def progress(log: Log, label: str, total: int) -> "Bar | Lines":
    """The display that suits the console of `log`: a context manager with `update(record)`."""
    if log.console.is_terminal:
        return Bar(log.console, label, total)
    return Lines(log, label, total)


class Bar:
    """A bar, redrawn a few times per second by the loop itself.

    A separate thread for redrawing could delay the loop's next dispatch.
    """

    def __init__(self, console: Console, label: str, total: int):
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
        )
        self._progress = Progress(*columns, console=console, auto_refresh=False, expand=True)
        self._task = self._progress.add_task(label, total=total, numbers="compiling")
        self._last: dict[str, Any] | None = None
        self._drawn = -math.inf

    def update(self, record: dict[str, Any]) -> None:
        self._last = record
        now = time.perf_counter()
        if now - self._drawn >= REFRESH_SECONDS:
            self._drawn = now
            self._draw(record)

    def _draw(self, record: dict[str, Any]) -> None:
        self._progress.update(self._task, completed=record["step"], numbers=describe(record))
        self._progress.refresh()

    def __enter__(self) -> "Bar":
        self._progress.start()
        self._progress.refresh()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._last is not None:
            self._draw(self._last)
        self._progress.stop()


class Lines:
    """Sparse plain lines, for log files and pipes."""

    def __init__(self, log: Log, label: str, total: int):
        self._log, self._label, self._total = log, label, total
        self._next_step, self._next_time = 0, math.inf

    def update(self, record: dict[str, Any]) -> None:
        step, now = record["step"], time.perf_counter()
        if step < self._next_step and now < self._next_time and step != self._total:
            return
        self._next_step = step - step % -(-self._total // LINES) + -(-self._total // LINES)
        self._next_time = now + LINE_SECONDS
        self._log.say(f"{self._label} {step}/{self._total}  {describe(record)}")

    def __enter__(self) -> "Lines":
        self._log.say(f"{self._label}: compiling")
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def describe(record: dict[str, Any]) -> str:
    """The main numbers of a step, as text."""
    parts = [f"loss {record['loss']:.4g}"]
    if "mean_return" in record:  # of a policy; its loss is not meaningful
        parts.append(f"return {record['mean_return']:.4g}")
    if not math.isnan(record["damping"]):  # NaN: a first-order optimiser, without a solver
        parts += [f"damping {record['damping']:.3g}", f"solver steps {record['solver_steps']}"]
    parts.append(f"{record['seconds']:.1f} s")
    if not record["accepted"]:
        parts.append("(rejected)")
    return "  ".join(parts)


def wide_console() -> Console:
    """A console for tables; without a terminal it is wide enough for any table."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH_OF_A_PIPE)


def report(log: Log, summary: Summary, folder: Path) -> None:
    """The short summary at the end of a run."""
    steps, epochs = summary["steps"], summary["epochs"]
    log.say(
        f"{summary['curvature']} {summary['status']} after {steps} step{'' if steps == 1 else 's'} "
        f"({epochs:{'.3g' if epochs < 1000 else ',.0f'}} epochs) in {summary['seconds']:.1f} s"
        + (f", {summary['rejected']} rejected" if summary["rejected"] else ""),
    )
    if "reason" in summary:
        log.say(summary["reason"])
    numbers = {"train loss": summary["train_loss"], "test loss": summary["test_loss"]}
    numbers |= {f"test {name}": value for name, value in summary["test"].items()}
    numbers = {name: value for name, value in numbers.items() if value is not None}
    if numbers:
        log.say("  ".join(f"{name} {value:.4g}" for name, value in numbers.items()))
    log.say(f"output {folder}")
