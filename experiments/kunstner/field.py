"""Three vector fields over the two weights of a line, and the paths that follow them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import curvature as cv

from .problems import Problem

# Slope and intercept: of the four starting points, and of the corners of the figure.
STARTS = ((4.5, 2.0), (0.0, 1.0), (3.0, 4.5), (3.0, -0.5))
CORNERS = ((-0.5, -1.0), (5.0, 5.0))
ARROWS = 13
CONTOURS = 60
# The paths solve w' = −d(w) by Euler's method, for this duration and with this step size.
DURATION, STEP = 80.0, 0.01

CURVATURES = {
    "gradient": cv.Identity(),
    "natural gradient": cv.ExactFisher(),
    "empirical Fisher": cv.EmpiricalFisher(),
}


class Field(NamedTuple):
    """−d(w) on a grid of weights, and the paths that follow it from the starting points."""

    grid: Float[np.ndarray, "arrows arrows 2"]
    arrows: Float[np.ndarray, "arrows arrows 2"]
    paths: Float[np.ndarray, "starts steps 2"]


def fields(problem: Problem) -> dict[str, Field]:
    """The field of every curvature, without damping."""
    grid = _grid(ARROWS)
    found = {}
    for name, curvature in CURVATURES.items():
        direction = jax.jit(_direction(problem, curvature))
        arrows = -jax.lax.map(direction, grid.reshape(-1, 2)).reshape(grid.shape)
        paths = jnp.stack([_path(direction, jnp.asarray(start)) for start in STARTS])
        found[name] = Field(np.asarray(grid), np.asarray(arrows), np.asarray(paths))
    return found


def losses(problem: Problem) -> tuple[Float[np.ndarray, "n n 2"], Float[np.ndarray, "n n"]]:
    """The loss on a fine grid, for contours."""
    grid = _grid(CONTOURS)
    values = jax.lax.map(problem.loss, grid.reshape(-1, 2)).reshape(grid.shape[:-1])
    return np.asarray(grid), np.asarray(values)


def _direction(problem: Problem, curvature: cv.AbstractCurvature) -> Callable[[Array], Array]:
    def direction(w: Float[Array, " 2"]) -> Float[Array, " 2"]:
        matrix, grad = problem.matrix(curvature, w)
        return jnp.linalg.solve(matrix, grad)

    return direction


def _path(direction: Callable[[Array], Array], start: Float[Array, " 2"]) -> Array:
    def move(w: Array, _: None) -> tuple[Array, Array]:
        return w - STEP * direction(w), w

    _, path = jax.lax.scan(move, start, None, length=round(DURATION / STEP))
    return path


def _grid(n: int) -> Float[Array, "n n 2"]:
    (slope_low, intercept_low), (slope_high, intercept_high) = CORNERS
    axes = jnp.linspace(slope_low, slope_high, n), jnp.linspace(intercept_low, intercept_high, n)
    return jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1)
