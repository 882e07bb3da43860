"""Which weights are matrices, and which of their sides are preconditioned, for all rivals."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

T = TypeVar("T")


def is_matrix(weight: Array | jax.ShapeDtypeStruct) -> bool:
    """Whether a weight is a matrix, outputs × inputs, of more than one row and column.

    Equinox puts the outputs first. All axes of a convolution after the first (inputs and kernel
    positions) count as one axis, as in Jordan's Muon. The bias of a convolution, of shape
    (channels, 1, 1), is no matrix. Stacked layers are not recognised: their first axis would count
    as outputs.
    """
    return weight.ndim >= 2 and 1 < weight.shape[0] < weight.size


def as_matrix(weight: Float[Array, "..."]) -> Float[Array, "m n"]:
    """A weight as a matrix, in float32 at least; a weight that is no matrix becomes one column."""
    rows = weight.shape[0] if is_matrix(weight) else weight.size
    # `eigh` and `qr` do not support half precision.
    wide = weight if jnp.finfo(weight.dtype).bits >= 32 else weight.astype(jnp.float32)
    return wide.reshape(rows, weight.size // max(rows, 1))


def first_sides(
    make: Callable[[Array, Array], T], weight: Array, max_dim: int
) -> tuple[T | None, T | None]:
    """The two sides of a weight before the first step; None for a side that keeps the identity.

    A side keeps the identity if the weight is no matrix, or if the side is larger than `max_dim`.

    **Arguments:** `make`: makes a side from a zero matrix and an identity of its size.
    """
    matrix = as_matrix(weight)

    def side(size: int) -> T | None:
        if not is_matrix(weight) or size > max_dim:
            return None
        return make(jnp.zeros((size, size), matrix.dtype), jnp.eye(size, dtype=matrix.dtype))

    rows, columns = matrix.shape
    return side(rows), side(columns)


def check_positive(name: str, value: object) -> None:
    """Raise unless `value` is an integer of at least 1; `name` is what the user wrote."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer, got {value}.")


def check_fraction(name: str, value: float, *, one: bool = False) -> None:
    """Raise unless `value` lies in [0, 1), or in [0, 1] if `one`."""
    if not (0 <= value < 1 or (one and value == 1)):
        raise ValueError(f"`{name}` must lie in [0, 1{']' if one else ')'}, got {value}.")
