"""The lengths of the steps of the empirical Fisher, far from the optimum and near it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

import curvature as cv

from .problems import Problem

DAMPINGS = (0.0, 1e-4, 1e-2, 1.0, 1e2)
DISTANCES = (1.0, 1e-1, 1e-2, 1e-3)


class Scaling(NamedTuple):
    """A direction d = (C + λI)⁻¹g at w* + τ(w₀ − w*), for the start w₀ and the optimum w*.

    - `length`: ‖d‖ divided by the length of the Newton step.
    - `cosine`: the cosine of the angle between d and the Newton step.
    - `best_step`: s* = argmin_s L(w − s·d), which is 1 for a direction of the right length.
    - `remaining`: (L(w − d) − L*)/(L(w) − L*), the fraction of the excess loss after a step d.
    - `remaining_at_best`: the same after a step s*·d.
    """

    curvature: str
    damping: float
    distance: float
    length: float
    cosine: float
    best_step: float
    remaining: float
    remaining_at_best: float


def scalings(problem: Problem) -> list[Scaling]:
    """All distances for Newton's method, then for the empirical Fisher with every damping."""
    optimum = problem.optimum()
    least = problem.loss(optimum)
    cases = [("exact_fisher", cv.ExactFisher(), 0.0)]
    cases += [("empirical_fisher", cv.EmpiricalFisher(), damping) for damping in DAMPINGS]
    found = []
    for name, curvature, damping in cases:

        @jax.jit
        def measure(w: Array, curvature=curvature, damping=damping) -> tuple[Array, ...]:
            matrix, grad = problem.matrix(curvature, w)
            d = jnp.linalg.solve(matrix + damping * jnp.eye(len(w)), grad)
            newton = jnp.linalg.solve(problem.matrix(cv.ExactFisher(), w)[0], grad)
            best = _best_step(problem, w, d)
            gap = problem.loss(w) - least
            lengths = jnp.linalg.norm(d), jnp.linalg.norm(newton)
            return (
                lengths[0] / lengths[1],
                d @ newton / (lengths[0] * lengths[1]),
                best,
                (problem.loss(w - d) - least) / gap,
                (problem.loss(w - best * d) - least) / gap,
            )

        for distance in DISTANCES:
            numbers = measure(optimum + distance * (problem.start - optimum))
            found.append(Scaling(name, damping, distance, *map(float, numbers)))
    return found


def _best_step(problem: Problem, w: Float[Array, " P"], d: Float[Array, " P"]) -> Scalar:
    """argmin_s L(w − s·d): s is doubled until the slope changes sign, then bisected."""
    slope = jax.grad(lambda s: problem.loss(w - s * d))
    high = jax.lax.while_loop(lambda s: slope(s) < 0, lambda s: 2 * s, jnp.asarray(1e-8))

    def halve(_: Array, bounds: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        low, high = bounds
        middle = (low + high) / 2
        left = slope(middle) < 0
        return jnp.where(left, middle, low), jnp.where(left, high, middle)

    low, high = jax.lax.fori_loop(0, 60, halve, (high / 2, high))
    return (low + high) / 2
