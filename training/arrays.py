"""The arrays of a step, for the recorders that ask for them."""

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, PyTree

from .recorders import AbstractRecorder, Arrays, Guarded
from .stepper import Stepper


class ArraysOfSteps:
    """Copies weights and gradients before a step, and computes the update after the step."""

    def __init__(self, stepper: Stepper, recorders: Guarded):
        self._stepper, self._recorders = stepper, recorders
        self._step: int | None = None

    def before(self, step: int, given: PyTree[Array]) -> bool:
        """Copy weights and gradients before the next step, number `step`, if a recorder wants them.

        **Returns:** whether one does.
        """
        wanted = bool(self._recorders.needing_arrays(step))
        if wanted:
            self._step = step
            self._before = self._weights(), by_path(self._stepper.gradient(given))
        return wanted

    def after(self, step: int) -> None:
        """Pass the arrays of the finished step to the recorders; nothing if none wanted them."""
        if step != self._step:
            return
        weights, gradients = self._before
        now = self._weights()
        updates = {path: before - now[path] for path, before in weights.items()}
        arrays = Arrays(weights, gradients, updates)

        def event(recorder: AbstractRecorder) -> None:
            recorder.arrays(step, arrays)

        self._recorders.tell(event, only=self._recorders.needing_arrays(step))

    def _weights(self) -> dict[str, np.ndarray]:
        return by_path(eqx.filter(self._stepper.model, eqx.is_inexact_array))


def by_path(tree: PyTree) -> dict[str, np.ndarray]:
    """The leaves of a tree by their paths, such as `layers/0/weight`; copies."""
    leaves, _ = jtu.tree_flatten_with_path(tree)
    # Copies: `device_get` may return a view, and the next step donates (destroys) that memory.
    return {
        jtu.keystr(path, simple=True, separator="/"): np.array(jax.device_get(leaf))
        for path, leaf in leaves
    }
