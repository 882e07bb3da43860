from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Scalar, ScalarLike

from .._checks import number
from ._base import AbstractDamping

# Martens 2010, "Deep learning via Hessian-free optimization", section 4.1.
_LOW, _HIGH = 1 / 4, 3 / 4
_RAISE, _LOWER = 3 / 2, 2 / 3
# Where the step was rejected the model was useless, not merely poor: come down faster.
_REJECTED = 4.0
# The ratio on next batches is an average that answers after a few steps.
_SLOWER = 1 / 3


class LevenbergMarquardt(AbstractDamping):
    """λ follows how well the quadratic model predicted the loss (Levenberg–Marquardt).

    With the reduction ratio ρ: λ ← 3/2 λ if ρ < 1/4; λ ← 2/3 λ if ρ > 3/4; else unchanged
    (Martens 2010, section 4.1). A rejected step multiplies λ by 4. λ stays within
    [`minimum`, `maximum`].

    On small batches the ratio on a step's own batch says little: a step with a small λ does to
    that batch what was predicted, and harm to all others. With `next_batch`, ρ is an average over
    the last steps, each on the batch that came after its own, and λ moves by the cube root of
    these factors. It costs about one forward pass more.

    **Arguments:**

    - `initial`: λ of the first step; None for gᵀCg/gᵀg, the curvature along the gradient, which
      has the units and the size of C, on the first batch that has a finite one. Until then λ = 0.
    - `minimum`: None for the roundoff of the weights' dtype, 1.2e-7 or 2.2e-16.
    - `maximum`.
    - `next_batch`: whether a step is judged on the batch after its own.
    """

    initial: Scalar | None
    minimum: Scalar | None
    maximum: Scalar
    next_batch: bool = eqx.field(static=True)

    def __init__(
        self,
        initial: ScalarLike | None = None,
        minimum: ScalarLike | None = None,
        maximum: ScalarLike = 1e8,
        next_batch: bool = False,
    ):
        bounds = {"minimum": minimum, "initial": initial, "maximum": maximum}
        checked = [
            number(f"LevenbergMarquardt({name}=...)", value, positive=True)
            for name, value in bounds.items()
            if value is not None
        ]
        known = [bound for bound in checked if bound is not None]  # the others are traced
        if known != sorted(known):
            raise ValueError(
                "`LevenbergMarquardt(initial=..., minimum=..., maximum=...)` must satisfy "
                f"minimum ≤ initial ≤ maximum, got {initial}, {minimum}, {maximum}."
            )
        self.initial = None if initial is None else jnp.asarray(initial)
        self.minimum = None if minimum is None else jnp.asarray(minimum)
        self.maximum = jnp.asarray(maximum)
        self.next_batch = next_batch

    def init(self, dtype: Any) -> Scalar:
        # Zero stands for a λ that is still to be found: one that was found is positive.
        return jnp.asarray(0 if self.initial is None else self.initial, dtype)

    def is_positive(self) -> bool:
        return True

    def needs_reduction_ratio(self) -> bool:
        return True

    def judges_on_next_batch(self) -> bool:
        return self.next_batch

    def begin(
        self, damping: Scalar, *, step: Int[Array, ""], scale: Callable[[], Scalar]
    ) -> Scalar:
        del step
        if self.initial is not None:
            return damping

        def found() -> Scalar:
            size = scale().astype(damping.dtype)
            return jnp.where(jnp.isfinite(size), self._within_bounds(size), 0)

        return jax.lax.cond(damping == 0, found, lambda: damping)

    def update(
        self, damping: Scalar, *, reduction_ratio: Scalar, accepted: Bool[Array, ""]
    ) -> Scalar:
        factor = jnp.where(reduction_ratio < _LOW, _RAISE, 1.0)
        factor = jnp.where(reduction_ratio > _HIGH, _LOWER, factor)
        if self.next_batch:
            factor = factor**_SLOWER
        factor = jnp.where(accepted, factor, _REJECTED).astype(damping.dtype)
        updated = self._within_bounds(damping * factor)
        return updated if self.initial is not None else jnp.where(damping == 0, 0, updated)

    def _within_bounds(self, damping: Scalar) -> Scalar:
        dtype = damping.dtype
        low = jnp.finfo(dtype).eps if self.minimum is None else self.minimum.astype(dtype)
        return jnp.clip(damping, low, self.maximum.astype(dtype))
