"""An optimiser of a comparison, and the settings to try."""

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

    - `make`: makes the optimiser for a setting.
    - `grid`: the settings to try first.
    - `choices`: changes of the best setting, tried one after another; a change that helps is kept.
    - `every`: the steps between two evaluations.
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
    """A setting in words; also used in file names."""
    return ", ".join(f"{name} {value}" for name, value in setting.items()) or "as published"


def rate(peak: float, until: int | None) -> optax.ScalarOrSchedule:
    """Constant `peak`; or, with `until`, a linear warm-up and a linear fall to 0 at that step."""
    if until is None:
        return peak
    up = optax.linear_schedule(0.0, peak, WARM_UP)
    return optax.join_schedules([up, optax.linear_schedule(peak, 0.0, until - WARM_UP)], [WARM_UP])
