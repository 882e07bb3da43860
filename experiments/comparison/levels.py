"""When a curve first reaches a loss, and what several seeds say of that together."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from .curves import Curve, Point


class Spread(NamedTuple):
    """The median of several numbers, between the smallest and the largest."""

    median: float
    low: float
    high: float


def reached(curve: Curve, level: float) -> Point | None:
    """The first point that was evaluated with at most this loss."""
    return next((point for point in curve if point.loss <= level), None)


def spread(points: Sequence[Point | None], name: str) -> Spread | None:
    """Of the field `name` over the seeds; None if one of them never got there."""
    known = [getattr(point, name) for point in points if point is not None]
    if len(known) < len(points):
        return None
    return Spread(statistics.median(known), min(known), max(known))


def ratio(ours: Sequence[Point | None], theirs: Sequence[Point | None], name: str) -> Spread | None:
    """Ours over theirs, seed by seed: both start from the same weights."""
    if None in ours or None in theirs:
        return None
    ratios = [getattr(a, name) / getattr(b, name) for a, b in zip(ours, theirs, strict=True)]
    return Spread(statistics.median(ratios), min(ratios), max(ratios))


def last_loss(curve: Curve) -> float:
    """The last loss; infinite where it is not a number, which is no loss to compare."""
    last = curve[-1].loss
    return math.inf if math.isnan(last) else last


def best(curves: Sequence[Curve], level: float) -> int:
    """The curve that reaches the level first by the processor, else that of the least last loss."""

    def key(curve: Curve) -> tuple[float, float]:
        point = reached(curve, level)
        return (math.inf if point is None else point.processor_seconds, last_loss(curve))

    return min(range(len(curves)), key=lambda index: key(curves[index]))
