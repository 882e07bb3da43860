from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float


def one_array(likelihood: object, y: Any) -> Array:
    """The target `y` as an array; a pair would become one of two rows without a sign of it."""
    if isinstance(y, tuple):
        raise ValueError(
            f"`{type(likelihood).__name__}().nll(z, y)` takes one array as its target, got "
            f"{len(y)}. `PolicyGradient` takes a pair (action, advantage)."
        )
    return jnp.asarray(y)


def target_like(likelihood: object, z: Float[Array, "*shape"], y: Any) -> Float[Array, "*shape"]:
    """The target `y` in the dtype of `z`; its shape must be that of `z`.

    A target of another shape would broadcast to a number that is wrong without a sign of it.
    """
    y = one_array(likelihood, y)
    if y.shape != z.shape:
        raise ValueError(
            f"`{type(likelihood).__name__}().nll(z, y)` takes one target per output: got outputs "
            f"of shape {z.shape} and a target of shape {y.shape}. Match the model to the target."
        )
    return y.astype(z.dtype)
