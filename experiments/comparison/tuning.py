"""Finds the best setting of a method on one seed."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from .curves import Curve, Ended
from .levels import best, last_loss, reached
from .method import Method, Setting

SLACK = 1.2
"""A run ends when it reaches a level so much later than the best run so far."""
SHORTER = 0.75
"""A falling rate ends at zero after this share of the steps of the constant one."""


class Tried(NamedTuple):
    """A setting and the curve of its run."""

    setting: Setting
    curve: Curve


def tune(
    method: Method, run: Callable[[Setting, Ended], Curve], levels: Sequence[float]
) -> tuple[Setting, list[Tried]]:
    """The setting that reaches the last of the levels in the fewest processor seconds.

    The grid is tried first. Then the choices are tried, and those that help are kept. Then, if the
    method is `scheduled`, a learning rate that grows and falls is tried, with the best constant
    rate as its peak, and with twice that rate.

    **Arguments:** `run`, a function of a setting and of a test whether the run is late. It returns
    the curve, and may end a run that is late.

    **Returns:** the setting, and all settings that were tried, in this order. The list is empty if
    there is only one setting.
    """
    if len(method.grid) == 1 and not method.choices and not method.scheduled:
        return method.grid[0], []
    tried: list[Tried] = []

    def so_far() -> Tried:
        return tried[best([each.curve for each in tried], levels[-1])]

    def attempt(setting: Setting) -> None:
        # A falling rate has its lowest losses at the end, so such a run does not end early.
        early = tried and "until" not in setting
        late = behind(so_far().curve, levels) if early else never
        tried.append(Tried(setting, run(setting, late)))

    for setting in method.grid:
        attempt(setting)
    for choice in method.choices:
        attempt(so_far().setting | choice)
    constant = so_far()
    last = reached(constant.curve, levels[-1])
    if method.scheduled and last is not None:
        for factor in (1.0, 2.0):
            peak = factor * constant.setting["learning_rate"]
            until = round(SHORTER * last.step)
            attempt(constant.setting | {"learning_rate": peak, "until": until})
    return so_far().setting, tried


def lowest(method: Method, run: Callable[[Setting], Curve]) -> tuple[Setting, list[Tried]]:
    """The setting of the grid with the lowest last loss, and all settings tried."""
    tried = [Tried(setting, run(setting)) for setting in method.grid]
    return min(tried, key=lambda each: last_loss(each.curve)).setting, tried


def never(curve: Curve) -> bool:
    """A test for `run` that is always False: the run never ends early."""
    del curve
    return False


def behind(other: Curve, levels: Sequence[float]) -> Ended:
    """Returns a test whether a run is later than `other` at a level it has not reached yet."""
    points = {level: reached(other, level) for level in levels}
    limits = {
        level: SLACK * point.processor_seconds
        for level, point in points.items()
        if point is not None
    }

    def late(curve: Curve) -> bool:
        now = curve[-1].processor_seconds
        return any(now > limit and reached(curve, level) is None for level, limit in limits.items())

    return late
