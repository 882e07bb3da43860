from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Int, PyTree, Scalar

from .._checks import check_schedule
from ._base import AbstractFixedSearch


class _State(eqx.Module):
    steps: Int[Array, ""]


class ScheduledLearningRate(AbstractFixedSearch):
    """s = `schedule(step)`, for any optax schedule; does not depend on the loss.

    **Arguments:** `schedule`, a function of the number of previous steps, an integer array, that
    returns s.
    """

    schedule: Callable[[Int[Array, ""]], Any] = eqx.field(static=True)

    def __check_init__(self):
        check_schedule("ScheduledLearningRate(schedule=...)", self.schedule)

    def init(self, y: PyTree[Array], f_info_struct: Any) -> _State:
        del y, f_info_struct
        return _State(jnp.zeros((), jnp.int32))

    def step(
        self,
        first_step: Bool[Array, ""],
        y: PyTree[Array],
        y_eval: PyTree[Array],
        f_info: Any,
        f_eval_info: Any,
        state: _State,
    ) -> tuple[Scalar, Bool[Array, ""], Any, _State]:
        del first_step, y, y_eval, f_info, f_eval_info
        s = jnp.asarray(self.schedule(state.steps))
        return s, jnp.asarray(True), optx.RESULTS.successful, _State(state.steps + 1)
