"""The mean and the standard deviation over the seeds of each configuration."""

import csv
import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple, TextIO

from rich.markup import escape
from rich.table import Table

from .configurations import Configuration
from .runs import StoredRun, number

NUMBERS = (
    *("steps", "seconds", "compile_seconds", "gradient_equivalents"),
    *("train_loss", "test_loss"),
)

MOST_PLACES = 6


class Cell(NamedTuple):
    """A number over n runs: mean and sample standard deviation (by n − 1; NaN where n < 2)."""

    mean: float
    deviation: float
    n: int

    def __str__(self) -> str:
        if self.n == 0:
            return "-"
        if self.n == 1 or self.deviation == 0:
            return f"{self.mean:.4g}" + (" ± 0" if self.n > 1 else "")
        # Both numbers are rounded to the second significant digit of the deviation.
        places = max(0, 1 - math.floor(math.log10(self.deviation)))
        if places > MOST_PLACES:
            return f"{self.mean:.6g} ± {self.deviation:.2g}"
        return f"{self.mean:.{places}f} ± {self.deviation:.{places}f}"


class Row(NamedTuple):
    """A configuration: its runs, how many of them finished, and the numbers of those that did."""

    label: str
    runs: int
    finished: int
    cells: dict[str, Cell]

    def shown(self, name: str) -> str:
        """A cell; with its n if some finished runs lack that number."""
        cell = self.cells[name]
        return f"{cell} (n = {cell.n})" if 0 < cell.n < self.finished else str(cell)


def rows(configurations: Sequence[Configuration]) -> list[Row]:
    """One row per configuration; a number that no finished run has is left out."""
    names = list(
        dict.fromkeys(
            name
            for name in (*NUMBERS, *_tests(configurations))
            for configuration in configurations
            if any(math.isfinite(_value(run, name)) for run in configuration.finished)
        )
    )
    return [
        Row(
            configuration.label,
            len(configuration.runs),
            len(configuration.finished),
            {name: cell([_value(run, name) for run in configuration.finished]) for name in names},
        )
        for configuration in configurations
    ]


def cell(values: Sequence[float]) -> Cell:
    """The statistics of those `values` that are finite."""
    finite = [value for value in values if math.isfinite(value)]
    mean = statistics.fmean(finite) if finite else math.nan
    return Cell(mean, statistics.stdev(finite) if len(finite) > 1 else math.nan, len(finite))


def heading(name: str) -> str:
    """The heading of a column."""
    return name.removeprefix("test.").replace("_", " ")


def write_csv(table: Sequence[Row], file: TextIO) -> None:
    """Write the table in full precision; unknown values are empty."""
    writer = csv.writer(file)
    names = list(table[0].cells)
    parts = [f"{name}_{part}" for name in names for part in ("mean", "std", "n")]
    writer.writerow(["configuration", "runs", "finished", *parts])
    for row in table:
        values = [value for name in names for value in row.cells[name]]
        known = ["" if math.isnan(value) else value for value in values]
        writer.writerow([row.label, row.runs, row.finished, *known])


def console_table(table: Sequence[Row]) -> Table:
    """The table for a terminal."""
    names = list(table[0].cells)
    shown = Table("configuration")
    for name in ("finished", *map(heading, names)):
        shown.add_column(name, justify="right")
    for row in table:
        finished = f"{row.finished} of {row.runs}"
        shown.add_row(escape(row.label), finished, *(row.shown(name) for name in names))
    return shown


def _tests(configurations: Sequence[Configuration]) -> list[str]:
    runs = [run for configuration in configurations for run in configuration.runs]
    return list(dict.fromkeys(f"test.{name}" for run in runs for name in _test(run)))


def _test(run: StoredRun) -> dict[str, Any]:
    return run.summary.get("test") or {}


def _value(run: StoredRun, name: str) -> float:
    metric = name.removeprefix("test.")
    return number(run.summary.get(name) if metric == name else _test(run).get(metric))
