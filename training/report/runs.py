"""Finds and reads run folders, including those of unfinished runs."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from jaxtyping import Float

from ..folder import CHECKPOINTS, CONFIG, ERROR_LOG, METRICS, SUMMARY

MARKS = {CONFIG, METRICS, SUMMARY, ERROR_LOG}
COLUMNS = (
    *("step", "seconds", "gradient_equivalents"),
    *("loss", "damping", "solver_steps", "reduction_ratio"),
)


class ReportError(ValueError):
    """No report is possible; the message is one sentence."""


class StoredRun(NamedTuple):
    """A run, as read from its folder.

    - `folder`; `config` and `summary`: empty if the run did not write them.
    - `columns`: the `COLUMNS` of its records, NaN where a record has no value.
    - `status`: that of the summary; without a summary `failed` if an error is logged, else
      `unfinished`; `unreadable` if the files are not as a run writes them.
    - `reason`: a sentence, empty for a finished run.
    """

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    columns: dict[str, Float[np.ndarray, " steps"]]
    status: str
    reason: str

    @property
    def is_finished(self) -> bool:
        """Whether the run finished, so that its results count."""
        return self.status == "finished"


def find_runs(folders: Iterable[Path]) -> list[StoredRun]:
    """The runs in and below `folders`, each once; numbered folders in the order of their numbers.

    **Raises:** `ReportError` for a folder without a run.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ReportError(f"There is no folder `{folder}`.")
        below = sorted(_run_folders(folder), key=_natural)
        if not below:
            raise ReportError(
                f"There is no run in `{folder}`: neither this folder nor a folder below it has a "
                f"{SUMMARY}, {METRICS} or {CONFIG}."
            )
        found |= dict.fromkeys(path.resolve() for path in below)
    return [read_run(folder) for folder in found]


def read_run(folder: Path) -> StoredRun:
    """Read one run folder. Missing files, and records cut by a crash, are left out."""
    try:
        return _read(folder)
    except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        # An unreadable folder is one line of the report; it must not end the report.
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        return StoredRun(folder, {}, {}, _as_columns([]), "unreadable", reason)


def _read(folder: Path) -> StoredRun:
    config = _mapping(folder / CONFIG, yaml.safe_load, yaml.YAMLError)
    summary = _mapping(folder / SUMMARY, json.loads, ValueError)
    _check(config, summary)
    status, reason = summary.get("status"), summary.get("reason", "")
    if status is None and (folder / ERROR_LOG).exists():
        status, reason = "failed", logged_error(folder)
    elif status is None:
        status, reason = "unfinished", f"No {SUMMARY}: the run was killed, or is still running."
    return StoredRun(folder, config, summary, _columns(folder / METRICS), status, reason)


def logged_error(folder: Path) -> str:
    """The last line of the traceback in a folder, which names the error."""
    lines = (folder / ERROR_LOG).read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "")


def number(value: Any) -> float:
    """A value of a record or a summary as a number; NaN if it is not a number."""
    return float(value) if isinstance(value, int | float) else float("nan")


def _run_folders(folder: Path) -> Iterator[Path]:
    for path, below, names in os.walk(folder):
        if CHECKPOINTS in below:
            below.remove(CHECKPOINTS)
        if not MARKS.isdisjoint(names):
            yield Path(path)


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    """A sort key by which `2` comes before `10`."""
    parts = re.split(r"(\d+)", str(path))
    return [(True, int(p), "") if p.isdecimal() else (False, 0, p) for p in parts]


def _mapping(file: Path, parse: Any, malformed: type[Exception]) -> dict[str, Any]:
    try:
        found = parse(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, UnicodeDecodeError, malformed):
        return {}
    return found if isinstance(found, dict) else {}


def _check(config: dict[str, Any], summary: dict[str, Any]) -> None:
    """Raise if a report could not show these values."""
    for name, kind in {"status": str, "reason": str, "test": dict, "validation": dict}.items():
        if name in summary and not isinstance(summary[name], kind):
            raise TypeError(f"`{name}` in {SUMMARY} is {summary[name]!r}")
    for value in (*summary.values(), *summary.get("test", {}).values()):
        number(value)  # an integer may be too large for a float
    for found in (config, summary):  # half of a surrogate pair, `\ud800`, raises
        json.dumps(found, ensure_ascii=False, default=str).encode()


def _columns(file: Path) -> dict[str, Float[np.ndarray, " steps"]]:
    rows = []
    if file.exists():
        with open(file, "rb") as lines:
            rows = [[number(r.get(name)) for name in COLUMNS] for r in _records(lines)]
    return _as_columns(rows)


def _as_columns(rows: list[list[float]]) -> dict[str, Float[np.ndarray, " steps"]]:
    return dict(zip(COLUMNS, np.array(rows, float).reshape(-1, len(COLUMNS)).T, strict=True))


def _records(lines: Iterable[bytes]) -> Iterator[Mapping[str, Any]]:
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # cut by a crash, perhaps within a character
            continue
        if isinstance(record, dict):
            yield record
