from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Scalar, ScalarLike

from .._checks import number
from ._base import AbstractDamping


class ConstantDamping(AbstractDamping):
    """λ = `value` ≥ 0 at every step."""

    value: Scalar

    def __init__(self, value: ScalarLike):
        number("ConstantDamping(value=...)", value)
        self.value = jnp.asarray(value)

    def init(self, dtype: Any) -> Scalar:
        return jnp.asarray(self.value, dtype)

    def needs_reduction_ratio(self) -> bool:
        return False

    def update(
        self, damping: Scalar, *, reduction_ratio: Scalar, accepted: Bool[Array, ""]
    ) -> Scalar:
        del reduction_ratio, accepted
        return damping
