"""What Hydra calls between the jobs of a sweep."""

from collections.abc import Mapping
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

COLUMNS = ("status", "steps", "seconds", "train_loss", "test_loss")
WIDTH_OF_A_PIPE = 200


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
        """Print the table."""
        del config, kwargs
        console = Console()
        if not console.is_terminal:
            console = Console(width=WIDTH_OF_A_PIPE)
        console.print(sweep_table(self._rows))


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


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
