"""When a change of the loss is no more than its rounding error."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Scalar

# A mean over a batch is taken to be good to this many units of roundoff.
_UNITS = 10.0


def rounding(loss: Scalar) -> Scalar:
    """How far a loss, a mean over a batch, may be off."""
    return _UNITS * float(jnp.finfo(loss.dtype).eps) * jnp.abs(loss)


def is_rounding(before: Scalar, after: Scalar, predicted: Scalar) -> Bool[Array, ""]:
    """Whether a change of the loss, and the predicted one, are within the loss's rounding."""
    noise = rounding(before)
    return (jnp.abs(predicted) <= noise) & (jnp.abs(before - after) <= noise)
