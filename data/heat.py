"""The heat equation on an interval, for residuals at random points."""

import numpy as np

from ._base import Dataset
from ._collocation import Points, Term, Values, equation, grid, on_side
from .stream import Stream


def heat(seed: int, resample_every: int | None = None) -> Dataset | Stream:
    """∂u/∂t = ¼ ∂²u/∂x² for (t, x) in the unit square; u* = exp(−π²t/4) sin πx.

    The term `interior` has 900 points with target 0. The term `boundary` has 60 points at t = 0
    with target u*, and 30 points on each side, x = 0 and x = 1, with target 0. All points are
    uniform and drawn from `seed`, again after every `resample_every` steps; in float64. The
    reference is u* on a grid of 200 × 200 points.
    """

    def solution(x: Points) -> Values:
        t, position = x[:, :1], x[:, 1:]
        return np.exp(-(np.pi**2) * t / 4) * np.sin(np.pi * position)

    def draw(generator: np.random.Generator) -> dict[str, Term]:
        inside = generator.uniform(size=(900, 2))
        start = on_side(generator.uniform(size=(60, 2)), 0, 0.0)
        sides = [on_side(generator.uniform(size=(30, 2)), 1, end) for end in (0.0, 1.0)]
        prescribed = np.concatenate([solution(start), np.zeros((60, 1))])
        return {
            "interior": (inside, np.zeros((900, 1))),
            "boundary": (np.concatenate([start, *sides]), prescribed),
        }

    points = grid(200)
    return equation(
        "heat", draw, seed=seed, reference=(points, solution(points)), resample_every=resample_every
    )
