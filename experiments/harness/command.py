"""Runs of `train.py`, each made once and then read from its folder."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import yaml

from launch.folders import register_resolvers
from launch.job import Job, planned_job
from launch.launcher import launch
from launch.request import Request, read
from launch.runs import build
from running import SUMMARY, ExitCode
from running.files import CONFIG, MODEL

OVER = ("finished", "diverged")
"""The statuses of a run that is over, and is not made again."""


def compose(overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration of the run `python train.py OVERRIDES`.

    **Raises:** `RuntimeError` if it is refused.
    """
    register_resolvers("experiments")
    request = read(["-q", *overrides])
    if not isinstance(request, Request):
        raise RuntimeError(f"`python train.py {' '.join(overrides)}` is refused.")
    return planned_job(request.composition.jobs[0], multirun=False).config


def run_once(folder: Path, overrides: Sequence[str]) -> Path:
    """Make the run `python train.py OVERRIDES` in `folder`, if it is not there.

    A run that was interrupted is made again from its beginning, because the times of its parts are
    not those of a whole run. It takes place in this process, so that JAX is imported only once.

    **Returns:** `folder`.

    **Raises:** `SystemExit` if the run is interrupted; `RuntimeError` if it fails, or is refused.
    """
    if not _is_over(folder):
        if folder.exists():
            shutil.rmtree(folder)
        command = [*overrides, f"hydra.run.dir={folder}"]
        _check(_launch(command), [folder], command)
    return folder


def run_seeds_once(
    parent: Path, names: Mapping[int, str], overrides: Sequence[str]
) -> dict[int, Path]:
    """Make runs that differ in their seeds in one program, by a vectorised sweep.

    The times of such a run are its share of the time of the program.

    **Arguments:** `parent`, the folder of all runs; `names`, for each seed the name of its run's
    folder, which ends with the seed; `overrides`, those of all runs.

    **Returns, raises:** the folder by seed; as `run_once`.
    """
    folders = {seed: parent / name for seed, name in names.items()}
    missing = [seed for seed, folder in folders.items() if not _is_over(folder)]
    if len(missing) == 1:
        run_once(folders[missing[0]], [*overrides, f"seed={missing[0]}"])
    elif missing:
        for seed in missing:
            shutil.rmtree(folders[seed], ignore_errors=True)
        stem = names[missing[0]].removesuffix(str(missing[0]))
        sweep = [f"hydra.sweep.dir={parent}", f"hydra.sweep.subdir='{stem}${{seed}}'"]
        seeds = f"seed={','.join(map(str, missing))}"
        command = ["-m", *overrides, seeds, "vectorised=true", *sweep]
        _check(_launch(command), [folders[seed] for seed in missing], command)
    return folders


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


def _is_over(folder: Path) -> bool:
    return (folder / SUMMARY).exists() and summary(folder)["status"] in OVER


def _check(code: int, folders: Sequence[Path], command: Sequence[str]) -> None:
    if not all(map(_is_over, folders)):
        raise RuntimeError(f"`python train.py {' '.join(command)}` ended with exit code {code}.")
