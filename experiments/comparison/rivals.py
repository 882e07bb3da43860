"""First-order methods, with a learning rate that is constant, or grows and then falls."""

from typing import Any

import optax

import curvature as cv
from training import rivals

from .method import rate


def adam(
    objective: cv.AbstractObjective, learning_rate: float, until: int | None = None
) -> cv.FirstOrder:
    """Adam. **Arguments:** for `until`, here and in all methods below, see `rate`."""
    return cv.FirstOrder(objective, optax.adam(rate(learning_rate, until)))


def adamw(
    objective: cv.AbstractObjective, learning_rate: float, until: int | None = None
) -> cv.FirstOrder:
    """AdamW."""
    return cv.FirstOrder(objective, optax.adamw(rate(learning_rate, until)))


def muon(
    objective: cv.AbstractObjective, learning_rate: float, until: int | None = None
) -> cv.FirstOrder:
    """Muon; Adam with the same rate for weights that are not matrices."""
    transformation = optax.contrib.muon(
        rate(learning_rate, until), muon_weight_dimension_numbers=rivals.matrix_axes
    )
    return cv.FirstOrder(objective, transformation)


def soap(
    objective: cv.AbstractObjective, learning_rate: float, until: int | None = None, **choices: Any
) -> cv.FirstOrder:
    """SOAP."""
    return cv.FirstOrder(objective, rivals.soap(rate(learning_rate, until), **choices))


def shampoo(
    objective: cv.AbstractObjective, learning_rate: float, until: int | None = None, **choices: Any
) -> cv.FirstOrder:
    """Shampoo, with grafting from Adam."""
    return cv.FirstOrder(objective, rivals.shampoo(rate(learning_rate, until), **choices))
