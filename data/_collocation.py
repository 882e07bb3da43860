"""Collocation points for an equation and its boundary conditions."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from ._base import Dataset
from .redrawn import Redrawn
from .stream import Stream

Points = Float[np.ndarray, "n d"]
Values = Float[np.ndarray, "n 1"]
Term = tuple[Points, Values]

TEST_SEED = 2**32
"""Larger than every seed of a run, so that no run trains on its test points."""


def equation(
    name: str,
    draw: Callable[[np.random.Generator], dict[str, Term]],
    reference: Term,
    *,
    seed: int,
    resample_every: int | None,
) -> Dataset | Stream:
    """The dataset of an equation for a function of d coordinates.

    **Arguments:**

    - `draw`: random points and the right-hand sides there, per term.
    - `reference`: points, and the solution u* there.
    - `seed`: of the training points. The test points are always the same.
    - `resample_every`: the number of steps after which new training points are drawn; None: they
        are drawn once.
    """
    test, shape = draw(np.random.default_rng(TEST_SEED)), reference[0].shape[1:]
    if resample_every is None:
        train = draw(np.random.default_rng(seed))
        return Dataset(name, train, test, shape, 1, reference)
    return Stream(name, Redrawn(draw, seed, resample_every), test, shape, 1, reference)


def on_side(points: Points, axis: int, position: float) -> Points:
    """The points with coordinate `axis` set to `position`: on a side of the unit cube."""
    moved = points.copy()
    moved[:, axis] = position
    return moved


def grid(size: int) -> Points:
    """`size` × `size` equidistant points of the closed unit square."""
    axis = np.linspace(0, 1, size)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
