"""The run folder: the checks before a run uses it, and the files that are written once."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import yaml

from running.files import (
    CHECKPOINTS as CHECKPOINTS,
    CONFIG as CONFIG,
    ERROR_LOG as ERROR_LOG,
    METRICS as METRICS,
    MODEL as MODEL,
    SUMMARY as SUMMARY,
)

from .atomic import write_atomically
from .leaves import write_leaves


class FolderError(ValueError):
    """A folder that this run cannot use; the message is one sentence."""


class FolderInUseError(FolderError):
    """The folder of another run, which must not be written to."""


def check_folder(folder: Path, *, resume: bool) -> None:
    """Refuse a folder that `train` would refuse; writes nothing.

    A missing or empty folder is accepted. A folder that holds a run is accepted only to resume it.

    **Raises:** `FolderError`.
    """
    if folder.exists() and not folder.is_dir():
        raise FolderError(f"The run folder `{folder}` is a file; give another folder.")
    if resume and not folder.exists():
        raise FolderError(f"There is no run to resume: the folder `{folder}` does not exist.")
    if not resume and (folder / METRICS).exists():
        raise FolderError(holds_run_message(folder))


def holds_run_message(folder: Path) -> str:
    """The sentence for a folder that already holds a run."""
    return (
        f"The folder `{folder}` already holds a run ({METRICS}); "
        f"continue it with `resume={folder}`, or give another folder."
    )


def make_folder(folder: Path) -> None:
    """Make the run folder and its parents if they are missing.

    **Raises:** `FolderError` if that is not possible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"Cannot make the run folder `{folder}`: {error.strerror}.") from error


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write the resolved configuration, with its keys in their order."""
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    write_atomically(folder / CONFIG, lambda file: file.write(text.encode()))


def remove_end(folder: Path) -> None:
    """Remove what says how an earlier part of a run ended: the run goes on."""
    for name in (SUMMARY, ERROR_LOG):
        (folder / name).unlink(missing_ok=True)


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write the summary; numbers that are not finite become null."""
    text = json.dumps(finite_or_null(summary), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(folder / SUMMARY, lambda file: file.write(text.encode()))


def write_model(folder: Path, model: eqx.Module) -> None:
    """Write the weights, to be read with `equinox.tree_deserialise_leaves`."""
    write_atomically(folder / MODEL, lambda file: write_leaves(file, model))


def finite_or_null(value: Any) -> Any:
    """`value` with every number that JSON cannot hold (NaN, infinities) replaced by `None`."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite_or_null(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [*map(finite_or_null, value)]
    return value
