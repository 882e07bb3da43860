"""Estimates how far the recursive residual differs from the true one because of rounding."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Scalar

# The rounding error of one product A v is assumed to be this many units of roundoff of ‖A‖‖v‖.
_PRODUCT_ROUNDING = 4.0


class Drift(eqx.Module):
    """A running upper estimate of ‖r − (b − A x)‖ for the recursive residual r."""

    estimate: Scalar
    operator_norm: Scalar  # the largest Rayleigh quotient so far, ≤ ‖A‖
    direction_norm: Scalar
    x_norm: Scalar  # a bound on ‖x‖


def update_drift(
    drift: Drift,
    alpha: Scalar,
    curvature: Scalar,
    residual_norm: Scalar,
    possible: Bool[Array, ""],
) -> Drift:
    """The drift after the step αp, with α = 0 if no step was possible.

    Each step adds the rounding errors of x, of the product and of r. The errors of different steps
    are assumed independent, so their squares are added. For a long solve, the sum of the errors
    would be far too pessimistic.
    """
    quotient = jnp.where(possible, curvature / drift.direction_norm**2, 0)
    operator_norm = jnp.maximum(drift.operator_norm, quotient)
    step_norm = alpha * drift.direction_norm
    x_norm = drift.x_norm + step_norm
    local = operator_norm * (x_norm + _PRODUCT_ROUNDING * step_norm) + residual_norm
    estimate = jnp.hypot(drift.estimate, roundoff(local) * local)
    return Drift(estimate, operator_norm, drift.direction_norm, x_norm)


def roundoff(x: Scalar) -> float:
    """The unit roundoff of the precision of `x`."""
    return float(jnp.finfo(x.dtype).eps) / 2
