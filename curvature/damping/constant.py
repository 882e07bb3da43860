from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Scalar, ScalarLike

from .._checks import concrete
from ._base import AbstractDamping


class ConstantDamping(AbstractDamping):
    """λ = `value` ≥ 0 at every step."""

    value: Scalar = eqx.field(converter=jnp.asarray)

    def __init__(self, value: ScalarLike):
        self.value = jnp.asarray(value)

    def __check_init__(self):
        value = concrete(self.value)
        if value is not None and not 0 <= value < float("inf"):
            raise ValueError(
                f"`ConstantDamping(value=...)` must be a finite number ≥ 0, got {value}."
            )

    def init(self, dtype: Any) -> Scalar:
        return jnp.asarray(self.value, dtype)

    def needs_reduction_ratio(self) -> bool:
        return False

    def update(
        self, damping: Scalar, *, reduction_ratio: Scalar, accepted: Bool[Array, ""]
    ) -> Scalar:
        del reduction_ratio, accepted
        return damping
