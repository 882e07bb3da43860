"""What Hydra calls between the jobs of a sweep."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from training.log import say
from training.progress import wide_console

from .errors import sentence

COLUMNS = ("status", "steps", "seconds", "train_loss", "test_loss")


class SweepTable(Callback):
    """Prints one table at the end of a sweep: a row for each job, failed ones included."""

    def __init__(self):
        self._rows: list[tuple[dict[str, str], Mapping[str, Any]]] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Keep the job's overrides and its summary."""
        del config, kwargs
        pairs = [text.partition("=") for text in job_return.overrides or []]
        overrides = {key: value for key, _, value in pairs}
        self._rows.append((overrides, job_return.return_value))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table; then report on the sweep's folder."""
        del kwargs
        console = wide_console()
        console.print(sweep_table(self._rows))
        _report(console, Path(config.hydra.sweep.dir))


def sweep_table(rows: list[tuple[dict[str, str], Mapping[str, Any]]]) -> Table:
    """The table for `rows`, each a job's overrides and its summary.

    An override that is the same in every job is left out, unless there is only one job.
    """
    keys = list(dict.fromkeys(key for overrides, _ in rows for key in overrides))
    swept = [key for key in keys if len({overrides.get(key) for overrides, _ in rows}) > 1]
    metrics = list(dict.fromkeys(name for _, summary in rows for name in summary.get("test", {})))
    shown = swept or keys
    table = Table()
    for name in shown:
        table.add_column(name)
    for name in (*COLUMNS, *metrics):
        table.add_column(name.replace("_", " "), justify="right")
    for overrides, summary in rows:
        values = [summary.get(name) for name in COLUMNS]
        values += [summary.get("test", {}).get(name) for name in metrics]
        table.add_row(*(overrides.get(key, "") for key in shown), *map(_cell, values))
    return table


def _report(console: Console, folder: Path) -> None:
    """Write the report on a sweep; where several of its jobs differ by seed alone, show its table.

    A sweep is not lost for want of its report: what it fails by is said in a line.
    """
    try:
        # Here, because it takes a second to import what draws, which a single run can do without.
        from training.report import console_table, write_report

        report = write_report([folder])
    except Exception as error:
        say(console, f"No report: {sentence(error)}")
        return
    if any(row.runs > 1 for row in report.table):
        console.print(console_table(report.table))
    say(console, f"report {report.page}")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
