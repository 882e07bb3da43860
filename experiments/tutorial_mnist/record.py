"""The contents of the JSON file besides the tables."""

from typing import Any

import numpy as np

from .rank_one import DAMPINGS, Lengths
from .study import Outcome

_CURVES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "batch_loss")


def curves(outcome: Outcome) -> dict[str, Any]:
    """All curves of all seeds."""
    return {
        name: [np.round(np.asarray(getattr(run, name), float), 4).tolist() for run in outcome.runs]
        for name in _CURVES
    }


def tried(outcome: Outcome) -> dict[str, list[float]]:
    """The final training losses of every setting, by tuning seed."""
    return {outcome.written(setting): losses for setting, losses in outcome.tried.items()}


def lengths(found: Lengths) -> dict[str, Any]:
    """The lengths at every damping."""
    return {
        "damping": DAMPINGS,
        "gradient": found.gradient,
        "outside": found.outside,
        "lengths": {name: values.tolist() for name, values in found.of.items()},
    }
