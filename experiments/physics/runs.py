"""The runs of physics-informed networks, made once by `train.py`, and their results."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
RESAMPLED_STEPS = 335


def train(folder: Path, *overrides: str) -> Path:
    """Run `train.py` in `folder`, or finish an interrupted run there; returns `folder`."""
    if not (folder / "summary.json").exists() or summary(folder)["status"] != "finished":
        begun = (folder / "config.yaml").exists()
        how = [f"resume={folder}"] if begun else [*overrides, f"hydra.run.dir={folder}"]
        command = [sys.executable, str(ROOT / "train.py"), *how]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def summary(folder: Path) -> dict[str, Any]:
    """The summary of a run."""
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def curve(folder: Path) -> list[tuple[int, float, float]]:
    """(step, seconds, error) at each evaluation of a run; without the time of compilation."""
    compiling = summary(folder)["compile_seconds"]
    records = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [
        (record["step"], record["seconds"] - compiling, record["test"]["l2_error"])
        for record in records
        if "test" in record
    ]


def training_seconds(folder: Path) -> float:
    """The time of a run's steps, without compilation and evaluation."""
    found = summary(folder)
    return found["seconds"] - found["compile_seconds"]


def gauss_newton(runs: Path, experiment: str, seed: int) -> Path:
    """The run of the experiment without changes."""
    return train(runs / f"{experiment}_{seed}", f"experiment={experiment}", f"seed={seed}")


def resampled(runs: Path, experiment: str, seed: int) -> Path:
    """The experiment with new points at every step, for as many steps as others need to 1e-6."""
    return train(
        runs / f"{experiment}_resampled_{seed}",
        f"experiment={experiment}",
        f"seed={seed}",
        "dataset.resample_every=1",
        f"epochs={RESAMPLED_STEPS}",
    )


def adam(
    runs: Path, experiment: str, seed: int, *, rate: float, seconds: float, per_step: float
) -> Path:
    """The experiment with Adam, for about the same number of seconds."""
    steps = max(1, round(seconds / per_step))
    return train(
        runs / f"{experiment}_adam_{rate:g}_{seed}",
        *by_adam(experiment, seed, rate, steps),
        f"evaluate_every={max(1, steps // 100)}",
    )


def by_adam(experiment: str, seed: int, rate: float, steps: int) -> tuple[str, ...]:
    """The command-line overrides for a run with `steps` steps of Adam."""
    preset = ROOT / "conf" / "experiment" / f"{experiment}.yaml"
    settings = yaml.safe_load(preset.read_text(encoding="utf-8"))["optimiser"]
    return (
        f"experiment={experiment}",
        f"seed={seed}",
        "optimiser=adam",
        *(f"~optimiser.{name}" for name in settings),  # those of the natural gradient
        f"optimiser.transformation.learning_rate={rate}",
        f"epochs={steps}",
    )
