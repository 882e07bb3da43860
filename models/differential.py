"""Differential operators on a model, as the `outputs` of terms that score its residuals.

Derivatives with respect to x are taken in forward mode, twice. The derivative with respect to the
weights is then one backward pass through this computation. A model u maps a point x of d
coordinates to c numbers.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_Model = Callable[[Float[Array, " d"]], Float[Array, " c"]]


def value(model: _Model, x: Float[Array, " d"]) -> Float[Array, " c"]:
    """u(x), which a boundary prescribes."""
    return model(x)


def negative_laplacian(model: _Model, x: Float[Array, " d"]) -> Float[Array, " c"]:
    """−Δu = −Σ_i ∂²u/∂x_i² at x."""
    directions = jnp.eye(x.size, dtype=x.dtype)
    return -jnp.sum(jax.vmap(lambda v: _second(model, x, v))(directions), axis=0)


def heat_operator(
    model: _Model, x: Float[Array, " d"], *, diffusivity: float
) -> Float[Array, " c"]:
    """∂u/∂t − `diffusivity` · Δu at x = (t, ...), Δ over all coordinates but t."""
    time, *space = jnp.eye(x.size, dtype=x.dtype)
    _, rate = jax.jvp(model, (x,), (time,))
    seconds = jax.vmap(lambda v: _second(model, x, v))(jnp.stack(space))
    return rate - diffusivity * jnp.sum(seconds, axis=0)


def _second(model: _Model, x: Float[Array, " d"], v: Float[Array, " d"]) -> Float[Array, " c"]:
    """The second derivative of u at x along v."""

    def first(x: Float[Array, " d"]) -> Float[Array, " c"]:
        return jax.jvp(model, (x,), (v,))[1]

    return jax.jvp(first, (x,), (v,))[1]
