"""The arrays of a step, for the recorders that want them."""

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, PyTree

from .recorders import AbstractRecorder, Arrays, Guarded
from .stepper import Stepper


class ArraysOfSteps:
    """Takes weights and gradients before a step, and what it has subtracted after it."""

    def __init__(self, stepper: Stepper, recorders: Guarded):
        self._stepper, self._recorders = stepper, recorders
        self._step: int | None = None

    def before(self, step: int, given: PyTree[Array]) -> bool:
        """Whether the arrays of step number `step`, which is next, are wanted; if so take them."""
        wanted = bool(self._recorders.wanting_arrays(step))
        if wanted:
            self._step = step
            self._before = self._weights(), by_path(self._stepper.gradient(given))
        return wanted

    def after(self, step: int) -> None:
        """Tell the recorders of the step, which is over; nothing where it was not wanted."""
        if step != self._step:
            return
        weights, gradients = self._before
        now = self._weights()
        updates = {path: before - now[path] for path, before in weights.items()}
        arrays = Arrays(weights, gradients, updates)

        def event(recorder: AbstractRecorder) -> None:
            recorder.arrays(step, arrays)

        self._recorders.tell(event, only=self._recorders.wanting_arrays(step))

    def _weights(self) -> dict[str, np.ndarray]:
        return by_path(eqx.filter(self._stepper.model, eqx.is_inexact_array))


def by_path(tree: PyTree) -> dict[str, np.ndarray]:
    """The leaves of a tree by their paths, such as `layers/0/weight`; copies."""
    leaves, _ = jtu.tree_flatten_with_path(tree)
    # Copies: the next step is given the memory of what a NumPy view would show.
    return {
        jtu.keystr(path, simple=True, separator="/"): np.array(jax.device_get(leaf))
        for path, leaf in leaves
    }
