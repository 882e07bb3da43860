"""The point where a curve first reaches a loss, and its median and range over the seeds."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from .curves import Curve, Point


class Spread(NamedTuple):
    """The median of several numbers, with the smallest and the largest."""

    median: float
    low: float
    high: float


def reached(curve: Curve, level: float) -> Point | None:
    """The first point of the curve with at most this loss, or None."""
    return next((point for point in curve if point.value <= level), None)


def spread(points: Sequence[Point | None], name: str) -> Spread | None:
    """The spread of the field `name` over the seeds; None if a seed never reached the loss.

    NaN counts as infinite, so that a run that diverged is seen.
    """
    known = [getattr(point, name) for point in points if point is not None]
    if len(known) < len(points):
        return None
    known = [math.inf if math.isnan(number) else number for number in known]
    return Spread(statistics.median(known), min(known), max(known))


def ratio(ours: Sequence[Point | None], theirs: Sequence[Point | None], name: str) -> Spread | None:
    """The spread of ours/theirs per seed; runs of one seed start from the same weights."""
    if None in ours or None in theirs:
        return None
    ratios = [getattr(a, name) / getattr(b, name) for a, b in zip(ours, theirs, strict=True)]
    return Spread(statistics.median(ratios), min(ratios), max(ratios))


def last_loss(curve: Curve) -> float:
    """The last loss; infinite instead of NaN, which cannot be compared."""
    last = curve[-1].value
    return math.inf if math.isnan(last) else last
