"""Full-batch problems whose outputs are affine in the weights: the Fisher is the Hessian."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, Scalar

import curvature as cv
import data
import models

# Many more steps than Newton's method needs to converge up to rounding.
_NEWTON_STEPS = 30


@dataclasses.dataclass(frozen=True)
class Problem:
    """An affine model with initial weights 0; the batch is all examples of a training part.

    Weights are flat vectors w of size P, so that a Newton step can be computed without the library.
    All numbers are float64.
    """

    name: str
    likelihood: cv.AbstractLikelihood
    batch: PyTree[Array]
    unravel: Callable[[Float[Array, " P"]], eqx.Module]
    start: Float[Array, " P"]

    @property
    def objective(self) -> cv.Supervised:
        return cv.Supervised(self.likelihood)

    def loss(self, w: Float[Array, " P"]) -> Scalar:
        """L(w), the mean over the examples."""
        return self.objective.loss(self.unravel(w), self.batch)

    def matrix(
        self, curvature: cv.AbstractCurvature, w: Float[Array, " P"]
    ) -> tuple[Float[Array, "P P"], Float[Array, " P"]]:
        """The dense matrix C of a curvature at w, and the gradient at w."""
        linearisation = self.objective.linearise(self.unravel(w), self.batch)
        grad, _ = jfu.ravel_pytree(linearisation.grad)
        return curvature.operator(linearisation).as_matrix(), grad

    def optimum(self) -> Float[Array, " P"]:
        """The minimum of L, by Newton's method with `jax.hessian`."""
        step = jax.jit(lambda w: w - newton_direction(self.loss, w))
        w = self.start
        for _ in range(_NEWTON_STEPS):
            w = step(w)
        return w


def newton_direction(
    loss: Callable[[Float[Array, " P"]], Scalar], w: Float[Array, " P"]
) -> Float[Array, " P"]:
    """(∇²L)⁻¹∇L by autodiff and a dense solve, without the library's curvatures."""
    return jnp.linalg.solve(jax.hessian(loss)(w), jax.grad(loss)(w))


def wine() -> Problem:
    """Linear regression: 142 examples, 14 weights."""
    return _affine("wine", cv.Gaussian(), data.wine().train)


def breast_cancer() -> Problem:
    """Logistic regression: 455 examples, 11 weights."""
    return _affine("breast_cancer", cv.Bernoulli(), data.breast_cancer().train)


def line() -> Problem:
    """Y = 2x + 2 + ε, 1000 examples: log x ∼ N(0, ¾²), ε ∼ N(0, 1), as in the paper's figure 1."""
    rng = np.random.default_rng(0)
    x = rng.lognormal(0, 0.75, (1000, 1))
    y = 2 * x + 2 + rng.standard_normal((1000, 1))
    return _affine("line", cv.Gaussian(), (x, y))


def _affine(name: str, likelihood: cv.AbstractLikelihood, part: tuple[Any, Any]) -> Problem:
    inputs, targets = (jnp.asarray(array, jnp.result_type(float)) for array in part)
    model = models.MLP(inputs.shape[1:], targets.shape[-1], depth=0, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    w, unravel = jfu.ravel_pytree(params)

    def with_weights(w: Float[Array, " P"]) -> eqx.Module:
        return eqx.combine(unravel(w), static)

    return Problem(name, likelihood, (inputs, targets), with_weights, jnp.zeros_like(w))
