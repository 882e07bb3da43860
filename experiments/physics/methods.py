"""The methods that are compared, and the levels of the error."""

from pathlib import Path
from typing import Any

import yaml

from experiments.harness.method import Method, settings
from experiments.harness.optimisers import first_order
from experiments.harness.problem import Problem
from experiments.harness.runs import Runs

LEVELS = (1e-4, 1e-6)
RATES = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
EXPERIMENTS = ("poisson2d", "heat", "poisson5d")
FRESH_STEPS = 335
"""As many as others need to 1e-6 on poisson5d."""
PRESETS = Path(__file__).parents[2] / "conf" / "experiment"


def preset(experiment: str) -> dict[str, Any]:
    """The configuration of an experiment."""
    return yaml.safe_load((PRESETS / f"{experiment}.yaml").read_text(encoding="utf-8"))


def runs_of(experiment: str, folder: Path) -> Runs:
    """The runs of an experiment."""
    return Runs(Problem(experiment, (f"experiment={experiment}",), part="test"), folder)


def gauss_newton(experiment: str) -> Method:
    """The experiment without changes."""
    return Method("gauss_newton", list, [{}], preset(experiment)["epochs"], 1)


FRESH = Method(
    "gauss_newton, fresh points", lambda: ["dataset.resample_every=1"], [{}], FRESH_STEPS, 1
)
"""An experiment with new points at every step."""


def adam(experiment: str, steps: int, every: int) -> Method:
    """The experiment with Adam."""
    # The settings of the natural gradient are not those of Adam.
    removed = [f"~optimiser.{name}" for name in preset(experiment)["optimiser"]]

    def overrides(learning_rate: float) -> list[str]:
        return [*first_order("adam")(learning_rate), *removed]

    return Method("adam", overrides, settings("learning_rate", *RATES), steps, every)
