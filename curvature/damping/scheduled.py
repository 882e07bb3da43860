from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from .._checks import check_schedule, number
from .._trees import work_dtype
from ._base import AbstractDamping, Batch, Chosen, Step


class ScheduledDamping(AbstractDamping):
    """λ = `schedule(step)`, for any optax schedule; it must be above zero at every step.

    **Arguments:** `schedule`, a function of the number of previous steps, an integer array, that
    returns λ.
    """

    schedule: Callable[[Int[Array, ""]], Any] = eqx.field(static=True)

    def __check_init__(self):
        check_schedule("ScheduledDamping(schedule=...)", self.schedule)

    def init(self, params: PyTree) -> None:
        del params
        first = jnp.asarray(self.schedule(jnp.zeros((), jnp.int32)))
        number("ScheduledDamping(schedule=...)(0)", first, positive=True)

    def is_positive(self) -> bool:
        return True

    def needs_reduction_ratio(self) -> bool:
        return False

    def begin(self, state: None, batch: Batch) -> Chosen:
        found = jnp.asarray(self.schedule(batch.step), work_dtype(batch.params))
        return Chosen(found, state)

    def update(self, chosen: Chosen, step: Step) -> None:
        del chosen, step
