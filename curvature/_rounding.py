"""Tests whether a change of the loss is within the rounding error of the loss."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Scalar

# The rounding error of a mean over a batch is assumed to be at most this many eps of the mean.
_UNITS = 10.0


def rounding_error(loss: Scalar) -> Scalar:
    """The assumed rounding error of a loss, which is a mean over a batch."""
    return _UNITS * float(jnp.finfo(loss.dtype).eps) * jnp.abs(loss)


def is_rounding(before: Scalar, after: Scalar, predicted: Scalar) -> Bool[Array, ""]:
    """Whether the actual and the predicted change are both within the rounding of the loss."""
    noise = rounding_error(before)
    return (jnp.abs(predicted) <= noise) & (jnp.abs(before - after) <= noise)
