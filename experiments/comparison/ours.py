"""Natural gradients with a structure, and how they choose the length of a step."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float, Int

import curvature as cv


class Falling(eqx.Module):
    """A number that falls linearly to a hundredth at step `until`.

    Its numbers are arrays: a step is compiled once for all settings.
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
    """A structure of the Fisher matrix of drawn targets; a step has a KL divergence that falls.

    **Arguments:** `until`, the last step; `delta`, the divergence of the first step, in nats and
    per example, that of the last is a hundredth; `damping`, λ; `samples`, targets per example.
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
    """The gradient times the damped inverse of a structure, with the rate and momentum of a model.

    The model is quadratic, by the Gauss–Newton matrix, and exact along the direction and the last
    step. Levenberg and Marquardt's rule moves λ (Martens and Grosse 2015, sections 6.4, 6.5 and 7).
    Unlike there, a step that would raise its batch's loss is halved: the rule looks at that loss
    anyway, and without it a few such steps in a row can end a run.

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
