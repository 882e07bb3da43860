from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Scalar

from .._checks import check_schedule, number
from ._base import AbstractDamping


class ScheduledDamping(AbstractDamping):
    """λ = `schedule(step)`, for any optax schedule; it must be above zero at every step.

    **Arguments:** `schedule`, from the number of steps before this one, an integer array, to λ.
    """

    schedule: Callable[[Int[Array, ""]], Any] = eqx.field(static=True)

    def __check_init__(self):
        check_schedule("ScheduledDamping(schedule=...)", self.schedule)

    def init(self, dtype: Any) -> Scalar:
        first = jnp.asarray(self.schedule(jnp.zeros((), jnp.int32)), dtype)
        number("ScheduledDamping(schedule=...)(0)", first, positive=True)
        return first

    def is_positive(self) -> bool:
        return True

    def needs_reduction_ratio(self) -> bool:
        return False

    def judges_on_next_batch(self) -> bool:
        return False

    def begin(
        self, damping: Scalar, *, step: Int[Array, ""], scale: Callable[[], Scalar]
    ) -> Scalar:
        del scale
        return jnp.asarray(self.schedule(step), damping.dtype)

    def update(
        self, damping: Scalar, *, reduction_ratio: Scalar, accepted: Bool[Array, ""]
    ) -> Scalar:
        del reduction_ratio, accepted
        return damping
