from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Scalar, ScalarLike

from .._checks import number
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

    initial: Scalar
    minimum: Scalar
    maximum: Scalar

    def __init__(
        self, initial: ScalarLike = 1.0, minimum: ScalarLike = 1e-8, maximum: ScalarLike = 1e8
    ):
        first = number("LevenbergMarquardt(initial=...)", initial, positive=True)
        low = number("LevenbergMarquardt(minimum=...)", minimum, positive=True)
        high = number("LevenbergMarquardt(maximum=...)", maximum, positive=True)
        # A bound is None where it is traced.
        if not (first is None or low is None or high is None or low <= first <= high):
            raise ValueError(
                "`LevenbergMarquardt(initial=..., minimum=..., maximum=...)` must satisfy "
                f"minimum ≤ initial ≤ maximum, got {initial}, {minimum}, {maximum}."
            )
        self.initial = jnp.asarray(initial)
        self.minimum = jnp.asarray(minimum)
        self.maximum = jnp.asarray(maximum)

    def init(self, dtype: Any) -> Scalar:
        return jnp.asarray(self.initial, dtype)

    def is_positive(self) -> bool:
        return True

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
