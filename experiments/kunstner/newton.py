"""Natural gradient compared with Newton's method, step by step."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import lineax as lx
import optimistix as optx

import curvature as cv

from .problems import Problem, newton_direction

STEPS = 12


class Iterate(NamedTuple):
    """The weights w_k after k steps of natural gradient, compared with those of Newton, ν_k.

    - `step`: k, from 1.
    - `loss`: L(w_k).
    - `deviation`: ‖w_k − ν_k‖/‖ν_k‖. Both sequences start at w_0 = ν_0 and are computed
      independently from there.
    """

    step: int
    loss: float
    deviation: float


def iterates(problem: Problem, steps: int = STEPS) -> list[Iterate]:
    """The library's undamped natural gradient with the exact Fisher and a step size of 1."""
    optimiser = cv.NaturalGradient(
        problem.objective,
        curvature=cv.ExactFisher(),
        solver=lx.Cholesky(),
        damping=0.0,
        search=optx.LearningRate(1.0),
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
