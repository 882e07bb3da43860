from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Scalar, ScalarLike

from .._checks import concrete
from ._base import AbstractDamping

# Martens 2010, "Deep learning via Hessian-free optimization", section 4.1.
_LOW, _HIGH = 1 / 4, 3 / 4
_RAISE, _LOWER = 3 / 2, 2 / 3
# Where the step was rejected the model was useless, not merely poor: come down faster.
_REJECTED = 4.0


class LevenbergMarquardt(AbstractDamping):
    """λ follows how well the quadratic model predicted the loss (Levenberg–Marquardt).

    With the reduction ratio ρ: λ ← 3/2 λ if ρ < 1/4; λ ← 2/3 λ if ρ > 3/4; else unchanged
    (Martens 2010, section 4.1). A rejected step multiplies λ by 4. λ stays within
    [`minimum`, `maximum`].
    """

    initial: Scalar = eqx.field(converter=jnp.asarray)
    minimum: Scalar = eqx.field(converter=jnp.asarray)
    maximum: Scalar = eqx.field(converter=jnp.asarray)

    def __init__(
        self, initial: ScalarLike = 1.0, minimum: ScalarLike = 1e-8, maximum: ScalarLike = 1e8
    ):
        self.initial = jnp.asarray(initial)
        self.minimum = jnp.asarray(minimum)
        self.maximum = jnp.asarray(maximum)

    def __check_init__(self):
        initial, low, high = (concrete(x) for x in (self.initial, self.minimum, self.maximum))
        if initial is None or low is None or high is None:
            return
        if not 0 < low <= initial <= high < float("inf"):
            raise ValueError(
                "`LevenbergMarquardt(initial=..., minimum=..., maximum=...)` must satisfy "
                f"0 < minimum ≤ initial ≤ maximum, got {initial=}, minimum={low}, maximum={high}."
            )

    def init(self, dtype: Any) -> Scalar:
        return jnp.asarray(self.initial, dtype)

    def needs_reduction_ratio(self) -> bool:
        return True

    def update(
        self, damping: Scalar, *, reduction_ratio: Scalar, accepted: Bool[Array, ""]
    ) -> Scalar:
        factor = jnp.where(reduction_ratio < _LOW, _RAISE, 1.0)
        factor = jnp.where(reduction_ratio > _HIGH, _LOWER, factor)
        factor = jnp.where(accepted, factor, _REJECTED).astype(damping.dtype)
        low, high = self.minimum.astype(damping.dtype), self.maximum.astype(damping.dtype)
        return jnp.clip(damping * factor, low, high)
