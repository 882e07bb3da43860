"""How far rounding has carried the recursive residual from the true one."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Scalar

# One product is taken to err by this many units of roundoff of ‖A‖‖v‖.
_PRODUCT_ROUNDING = 4.0


class Drift(eqx.Module):
    """A running estimate, from above, of ‖r − (b − A x)‖ for the recursive residual r."""

    estimate: Scalar
    operator_norm: Scalar  # the largest Rayleigh quotient met, ≤ ‖A‖
    direction_norm: Scalar
    x_norm: Scalar  # a bound on ‖x‖


def grown(
    drift: Drift,
    alpha: Scalar,
    curvature: Scalar,
    residual_norm: Scalar,
    possible: Bool[Array, ""],
) -> Drift:
    """The drift after the step αp, α = 0 where no step was possible.

    Each step adds the rounding of x, of the product and of r. They are independent, so that their
    squares add up (their sum would be far too pessimistic for a long solve).
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
