"""Runs of `train.py`, each made once and then read from its folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import yaml

from launch.job import Job
from launch.launcher import launch
from launch.request import read
from launch.runs import build
from running import SUMMARY, ExitCode
from running.files import CONFIG, MODEL

OVER = ("finished", "diverged")
"""The statuses of a run that is over: it is neither made again nor continued."""


def run_once(folder: Path, overrides: Sequence[str]) -> Path:
    """Make the run `python train.py OVERRIDES` in `folder`, or continue it there.

    A run that is over is left as it is. The run takes place in this process, so that JAX is
    imported only once.

    **Returns:** `folder`.

    **Raises:** `SystemExit` if the run is interrupted; `RuntimeError` if it fails, or is refused.
    """
    if _status(folder) in OVER:
        return folder
    if (folder / CONFIG).exists():
        command = [f"resume={folder}"]
    else:
        command = [*overrides, f"hydra.run.dir={folder}"]
    code = _launch(command)
    if _status(folder) not in OVER:
        raise RuntimeError(f"`python train.py {' '.join(command)}` ended with exit code {code}.")
    return folder


def run_seeds_once(
    parent: Path, names: Mapping[int, str], overrides: Sequence[str]
) -> dict[int, Path]:
    """Make runs that differ in their seeds in one program, by a vectorised sweep.

    The times of such a run are its share of the time of the program.

    **Arguments:** `parent`, the folder of all runs; `names`, the folder of the run by its seed,
    which ends with the seed; `overrides`, those of all runs.

    **Returns, raises:** the folder by seed; as `run_once`.
    """
    missing = [seed for seed, name in names.items() if not (parent / name / CONFIG).exists()]
    if len(missing) > 1:
        stem = names[missing[0]].removesuffix(str(missing[0]))
        seeds = ",".join(map(str, missing))
        sweep = [f"hydra.sweep.dir={parent}", f"hydra.sweep.subdir='{stem}${{seed}}'"]
        _launch(["-m", *overrides, f"seed={seeds}", "vectorised=true", *sweep])
    return {
        seed: run_once(parent / name, [*overrides, f"seed={seed}"]) for seed, name in names.items()
    }


def _launch(command: Sequence[str]) -> int:
    """Run `python train.py COMMAND` in this process; returns the exit code."""
    request = read(["-q", *command])
    code = request if isinstance(request, ExitCode) else launch(request)
    if code in (ExitCode.RESUMABLE, ExitCode.INTERRUPTED):
        raise SystemExit(code)
    return code


def summary(folder: Path) -> dict[str, Any]:
    """The summary of a run."""
    return json.loads((folder / SUMMARY).read_text(encoding="utf-8"))


def make_initial_model(folder: Path, *, shapes_only: bool = False) -> eqx.Module:
    """The model of a run before its first step, in the precision of the run."""
    config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    return build(Job(config, folder, resume=False), shapes_only=shapes_only).model


def read_model(folder: Path) -> eqx.Module:
    """The final model of a run."""
    like = make_initial_model(folder, shapes_only=True)
    return eqx.tree_deserialise_leaves(folder / MODEL, like)


def _status(folder: Path) -> str | None:
    return summary(folder)["status"] if (folder / SUMMARY).exists() else None
