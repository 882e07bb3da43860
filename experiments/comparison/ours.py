"""Natural gradients with a structure, and two rules for the length of a step."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float, Int

import curvature as cv


class Falling(eqx.Module):
    """A number that falls linearly to a hundredth at step `until`.

    Its fields are arrays, so a step is compiled once for all settings.
    """

    first: Float[Array, ""]
    until: Int[Array, ""]

    def __init__(self, first: float, until: int):
        self.first, self.until = jnp.asarray(first), jnp.asarray(until)

    def __call__(self, step: Int[Array, ""]) -> Float[Array, ""]:
        return self.first * (1 - 0.99 * jnp.minimum(step / self.until, 1))


def of_divergence(
    objective: cv.AbstractObjective,
    structure: Callable[[cv.AbstractPullback], cv.AbstractCurvature],
    until: int,
    delta: float,
    damping: float = 0.1,
    samples: int = 1,
) -> cv.NaturalGradient:
    """A structure of the Fisher matrix of drawn targets, with a KL bound on each step that falls.

    **Arguments:** `until`, the last step; `delta`, the KL divergence of the first step, in nats per
    example (that of the last step is a hundredth of it); `damping`, λ; `samples`, the number of
    drawn targets per example.
    """
    return cv.NaturalGradient(
        objective,
        structure(cv.SampledFisher(samples)),
        damping=damping,
        search=cv.KLTrustRegion(Falling(delta, until)),
    )


def martens_grosse(
    objective: cv.AbstractObjective,
    structure: cv.AbstractCurvature,
    damping: float,
    minimum: float = 1e-3,
) -> cv.NaturalGradient:
    """The damped inverse of a structure times the gradient; a model gives rate and momentum.

    The model is quadratic with the Gauss–Newton matrix, and exact in the plane of the direction and
    the previous step. The rule of Levenberg and Marquardt adapts λ (Martens and Grosse 2015,
    sections 6.4, 6.5 and 7). Unlike in that paper, a step that would raise the loss of its batch is
    halved. The rule evaluates this loss in any case, and without the halving a few such steps in a
    row can make a run diverge.

    **Arguments:** `damping` and `minimum`, the first and the least λ.
    """
    return cv.NaturalGradient(
        objective,
        cv.GaussNewton(),
        cv.Preconditioned(),
        preconditioner=structure,
        damping=cv.LevenbergMarquardt(initial=damping, minimum=minimum),
        momentum=cv.QuadraticMomentum(),
        search=optx.BacktrackingArmijo(decrease_factor=0.5, slope=0.1, step_init=1.0),
    )
