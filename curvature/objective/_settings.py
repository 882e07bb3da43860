"""The numbers of an objective: checked when it is made, arrays when it is used."""

import jax
import jax.numpy as jnp
from jaxtyping import Scalar, ScalarLike

from .._checks import number, positive_int, scalar


def checked_l2(l2: ScalarLike | None) -> ScalarLike | None:
    """`l2` as a field of an objective; raises unless it is a number ≥ 0 or None."""
    if l2 is None:
        return None
    number("l2=...", l2)
    return scalar(l2)


def checked_micro_batch(micro_batch: int | None) -> int | None:
    """`micro_batch` as a field; raises unless it is a positive integer or None."""
    if micro_batch is not None:
        positive_int("micro_batch=...", micro_batch)
    return micro_batch


def as_array(l2: ScalarLike | None) -> Scalar | None:
    """`l2` as an array, or None."""
    return None if l2 is None else in_default_precision(l2)


def in_default_precision(value: ScalarLike) -> Scalar:
    """A number from a field as an array; float64 if `jax_enable_x64` is set now, else float32."""
    return value if isinstance(value, jax.Array) else jnp.asarray(value, jnp.result_type(float))
