"""An optimiser of a comparison, and the settings that are tried of it."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import optax

import curvature as cv

WARM_UP = 50
"""Steps over which a rate that is scheduled grows linearly."""

Setting: TypeAlias = dict[str, Any]
"""The keyword arguments of a method."""


class Method(NamedTuple):
    """An optimiser and its settings.

    - `make`: the optimiser of a setting.
    - `grid`: settings that are tried first.
    - `choices`: changes of the best one, tried one after the other; one that helps is kept.
    - `every`: steps between two evaluations.
    - `steps`: the most steps.
    - `scheduled`: whether a falling learning rate is tried as well.
    """

    make: Callable[..., cv.AbstractOptimiser]
    grid: list[Setting]
    choices: list[Setting]
    every: int
    steps: int
    scheduled: bool


def label(setting: Setting) -> str:
    """A setting in words, which is also a part of the names of files."""
    return ", ".join(f"{name} {value}" for name, value in setting.items()) or "as published"


def rate(peak: float, until: int | None) -> optax.ScalarOrSchedule:
    """`peak` throughout; or, up to step `until`, a linear warm-up and a linear fall to zero."""
    if until is None:
        return peak
    up = optax.linear_schedule(0.0, peak, WARM_UP)
    return optax.join_schedules([up, optax.linear_schedule(peak, 0.0, until - WARM_UP)], [WARM_UP])
