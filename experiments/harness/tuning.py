"""Finds the best setting of a method."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .curves import Curve
from .levels import last_loss, reached
from .method import Method, Setting

SHORTER = 0.75
"""A falling rate ends at zero after this share of the steps of the constant one."""


class Tried(NamedTuple):
    """A setting, and the curves of its runs: one for each tuning seed."""

    setting: Setting
    curves: list[Curve]

    @property
    def last_loss(self) -> float:
        """The mean of the last losses; infinite if one is not finite."""
        return statistics.fmean(map(last_loss, self.curves))

    def seconds_to(self, level: float) -> float:
        """The mean of the processor seconds to a loss; infinite if a run does not reach it."""
        points = [reached(curve, level) for curve in self.curves]
        return statistics.fmean(
            math.inf if point is None else point.processor_seconds for point in points
        )


Try = Callable[[Setting], Tried]


def lowest(method: Method, attempt: Try) -> tuple[Setting, list[Tried]]:
    """The setting of the grid with the lowest last loss, and all settings tried.

    Nothing is tried if there is only one setting.
    """
    if len(method.grid) == 1:
        return method.grid[0], []
    tried = [attempt(setting) for setting in method.grid]
    return min(tried, key=lambda each: each.last_loss).setting, tried


def soonest(method: Method, attempt: Try, levels: Sequence[float]) -> tuple[Setting, list[Tried]]:
    """The setting that reaches the last of the levels in the fewest processor seconds.

    The grid is tried first. Then the choices are tried, and those that help are kept. Then, if the
    method is `scheduled`, a learning rate that grows and falls is tried, with the best constant
    rate as its peak, and with twice that rate. Among settings that do not reach the level, the
    lowest last loss wins.

    **Returns:** the setting, and all settings that were tried, in this order. The list is empty if
    there is only one setting.
    """
    if len(method.grid) == 1 and not method.choices and not method.scheduled:
        return method.grid[0], []
    level = levels[-1]
    tried: list[Tried] = [attempt(setting) for setting in method.grid]

    def best() -> Tried:
        return min(tried, key=lambda each: (each.seconds_to(level), each.last_loss))

    for choice in method.choices:
        tried.append(attempt(best().setting | choice))
    constant = best()
    last = reached(constant.curves[0], level)
    if method.scheduled and last is not None:
        for factor in (1.0, 2.0):
            peak = factor * constant.setting["learning_rate"]
            until = round(SHORTER * last.step)
            tried.append(attempt(constant.setting | {"learning_rate": peak, "until": until}))
    return best().setting, tried
