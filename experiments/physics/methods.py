"""The methods that are compared, and the levels of the error."""

from pathlib import Path
from typing import Any

import yaml

from experiments.harness.method import Method, settings

LEVELS = (1e-4, 1e-6)
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
EXPERIMENTS = ("poisson2d", "heat", "poisson5d")
FRESH_STEPS = 335
"""As many as others need to 1e-6 on poisson5d."""
PRESETS = Path(__file__).parents[2] / "conf" / "experiment"


def preset(experiment: str) -> dict[str, Any]:
    """The configuration of an experiment."""
    return yaml.safe_load((PRESETS / f"{experiment}.yaml").read_text(encoding="utf-8"))


def gauss_newton(experiment: str) -> Method:
    """The experiment without changes."""
    return Method("gauss_newton", list, [{}], preset(experiment)["epochs"], 1)


def fresh(experiment: str) -> Method:
    """The experiment with new points at every step."""
    del experiment
    overrides = ["dataset.resample_every=1"]
    return Method("gauss_newton, fresh points", lambda: overrides, [{}], FRESH_STEPS, 1)


def adam(experiment: str, steps: int) -> Method:
    """The experiment with Adam."""
    # The settings of the natural gradient are not those of Adam.
    removed = [f"~optimiser.{name}" for name in preset(experiment)["optimiser"]]

    def overrides(rate: float) -> list[str]:
        return ["optimiser=adam", *removed, f"optimiser.transformation.learning_rate={rate}"]

    return Method("adam", overrides, settings("rate", *RATES), steps, max(1, steps // 100))
