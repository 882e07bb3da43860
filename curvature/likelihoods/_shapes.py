from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float


def one_array(likelihood: object, y: Any) -> Array:
    """The target `y` as one real array; raises `ValueError` if `y` is a tuple or complex.

    Without the check, a pair of arrays would silently become one array with two rows.
    """
    name = type(likelihood).__name__
    if isinstance(y, tuple):
        raise ValueError(
            f"`{name}().nll(z, y)` takes one array as its target, got a tuple of {len(y)}. "
            "`PolicyGradient` takes a pair (action, advantage), `Masked` a pair (target, mask)."
        )
    y = jnp.asarray(y)
    if jnp.issubdtype(y.dtype, jnp.complexfloating):
        raise ValueError(
            f"`{name}().nll(z, y)` takes a real target, got {y.dtype}. Use two outputs: the real "
            "part and the imaginary part."
        )
    return y


def target_like(likelihood: object, z: Float[Array, "*shape"], y: Any) -> Float[Array, "*shape"]:
    """The target `y` in the dtype of `z`; raises `ValueError` unless `y` has the shape of `z`.

    Without the check, a target of another shape would broadcast and give a wrong loss.
    """
    y = one_array(likelihood, y)
    if y.shape != z.shape:
        raise ValueError(
            f"`{type(likelihood).__name__}().nll(z, y)` takes one target per output: got outputs "
            f"of shape {z.shape} and a target of shape {y.shape}. Match the model to the target."
        )
    return y.astype(z.dtype)
