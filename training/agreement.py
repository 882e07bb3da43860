"""Agreement of the processes of a run on a few integers, without waiting for each other."""

import jax
import numpy as np
from jaxtyping import Array, Int

from . import hosts
from .mesh import Placement


class Agreement:
    """The maximum over all processes of a few integers; every process gets the same result.

    With one process, the result is the argument. With several processes, the result is the maximum
    of the arguments of the previous call. The devices compute the maximum of the current call after
    the step that is in flight, so waiting for it would mean waiting for that step.
    """

    def __init__(self, placement: Placement):
        self._placement = placement
        self._largest = jax.jit(_largest, out_shardings=placement.replicated_sharding())
        self._before: Int[Array, " numbers"] | None = None

    def __call__(self, *numbers: int) -> tuple[int, ...]:
        """The maxima of numbers ≥ 0, zeros at the first call; all processes call it together."""
        if hosts.count() == 1:
            return numbers
        row = np.array([numbers], np.int32)
        shape = self._placement.size, len(numbers)
        now = self._largest(self._placement.load(shape, lambda own: row))
        before, self._before = self._before, now
        if before is None:
            return (0,) * len(numbers)
        return tuple(np.asarray(before.addressable_data(0)).tolist())


def _largest(numbers: Int[Array, "devices numbers"]) -> Int[Array, " numbers"]:
    return numbers.max(0)
