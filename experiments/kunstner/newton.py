"""Natural gradient beside Newton's method, step by step."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import lineax as lx

import curvature as cv

from .problems import Problem, newton_direction

STEPS = 12


class Iterate(NamedTuple):
    """The weights w_k after k steps of natural gradient, beside those of Newton's method, ν_k.

    - `step`: k, from 1.
    - `loss`: L(w_k).
    - `deviation`: ‖w_k − ν_k‖/‖ν_k‖, the two sequences never having met since w_0 = ν_0.
    """

    step: int
    loss: float
    deviation: float


def iterates(problem: Problem, steps: int = STEPS) -> list[Iterate]:
    """Undamped natural gradient with the exact Fisher and a step size of 1, by the library."""
    optimiser = cv.NaturalGradient(
        problem.objective, curvature=cv.ExactFisher(), solver=lx.Cholesky(), damping=0.0
    )
    newton = jax.jit(lambda w: w - newton_direction(problem.loss, w))
    model, expected = problem.unravel(problem.start), problem.start
    state, found = optimiser.init(model), []
    for step in range(1, steps + 1):
        model, state, _ = optimiser.step(model, problem.batch, state)
        expected = newton(expected)
        w, _ = jfu.ravel_pytree(eqx.filter(model, eqx.is_inexact_array))
        deviation = jnp.linalg.norm(w - expected) / jnp.linalg.norm(expected)
        found.append(Iterate(step, float(problem.loss(w)), float(deviation)))
    return found
