from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Scalar, ScalarLike

from .._checks import number
from ._base import AbstractDamping


class ConstantDamping(AbstractDamping):
    """λ = `value` ≥ 0 at every step."""

    value: Scalar
    positive: bool = eqx.field(static=True)  # traced values may be zero

    def __init__(self, value: ScalarLike):
        known = number("ConstantDamping(value=...)", value)
        self.value = jnp.asarray(value)
        self.positive = known is not None and known > 0

    def init(self, dtype: Any) -> Scalar:
        return jnp.asarray(self.value, dtype)

    def is_positive(self) -> bool:
        return self.positive

    def needs_reduction_ratio(self) -> bool:
        return False

    def judges_on_next_batch(self) -> bool:
        return False

    def begin(
        self, damping: Scalar, *, step: Int[Array, ""], scale: Callable[[], Scalar]
    ) -> Scalar:
        del step, scale
        return damping

    def update(
        self, damping: Scalar, *, reduction_ratio: Scalar, accepted: Bool[Array, ""]
    ) -> Scalar:
        del reduction_ratio, accepted
        return damping
