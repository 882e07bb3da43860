"""Poisson's equation on the unit cube, for residuals at random points."""

import numpy as np

from ._base import Dataset
from ._collocation import Points, Term, Values, equation, grid, on_side
from .stream import Stream


def poisson2d(seed: int, resample_every: int | None = None) -> Dataset | Stream:
    """−Δu = 2π² sin πx sin πy on the unit square, u = 0 on its boundary; u* = sin πx sin πy.

    The terms are `interior` (900 points, target −Δu) and `boundary` (30 points on each side, target
    u). All points are uniform and drawn from `seed`, again after every `resample_every` steps; in
    float64. The reference is u* on a grid of 200 × 200 points.
    """

    def solution(x: Points) -> Values:
        return np.prod(np.sin(np.pi * x), axis=1, keepdims=True)

    def draw(generator: np.random.Generator) -> dict[str, Term]:
        inside = generator.uniform(size=(900, 2))
        sides = [
            on_side(generator.uniform(size=(30, 2)), axis, position)
            for axis in (0, 1)
            for position in (0.0, 1.0)
        ]
        boundary = np.concatenate(sides)
        return {
            "interior": (inside, 2 * np.pi**2 * solution(inside)),
            "boundary": (boundary, np.zeros((len(boundary), 1))),
        }

    points = grid(200)
    reference = points, solution(points)
    return equation("poisson2d", draw, reference, seed=seed, resample_every=resample_every)


def poisson5d(seed: int, resample_every: int | None = None) -> Dataset | Stream:
    """−Δu = π² Σ_i cos πx_i on the unit cube of R⁵, u = u* on its boundary; u* = Σ_i cos πx_i.

    The terms are `interior` (3,000 points, target −Δu) and `boundary` (500 points, target u). All
    points are uniform and drawn from `seed`, again after every `resample_every` steps; in float64.
    The reference is u* at 10,000 uniform points.
    """

    def solution(x: Points) -> Values:
        return np.sum(np.cos(np.pi * x), axis=1, keepdims=True)

    def draw(generator: np.random.Generator) -> dict[str, Term]:
        inside, boundary = generator.uniform(size=(3000, 5)), generator.uniform(size=(500, 5))
        # Each point is moved to one of the ten sides: a random coordinate becomes 0 or 1.
        boundary[np.arange(500), generator.integers(5, size=500)] = generator.integers(2, size=500)
        return {
            "interior": (inside, np.pi**2 * solution(inside)),
            "boundary": (boundary, solution(boundary)),
        }

    points = np.random.default_rng(0).uniform(size=(10_000, 5))
    reference = points, solution(points)
    return equation("poisson5d", draw, reference, seed=seed, resample_every=resample_every)
