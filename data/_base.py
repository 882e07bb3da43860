"""What every dataset returns, and the error that every dataset raises."""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import PyTree


class DatasetError(Exception):
    """A dataset that cannot be had: one sentence that says what is wrong and what to do."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training part and a test part, each arranged as the objective takes its batch.

    **Arguments:**

    - `name`: what reports call it.
    - `train`: `(inputs, targets)`, or `{"term": (inputs, targets), ...}`; every leaf has the
        same leading axis, the examples. Inputs are float32, labels int32, regression targets
        float32 of shape `[n, d]`.
    - `test`: the same structure, with examples of its own.
    - `input_shape`: the shape of one input.
    - `output_size`: how many numbers a model gives per example: the number of classes, or the
        dimension of a regression target.

    The arrays are held read-only, because one dataset is shared by everything in the process.

    **Raises:** `DatasetError` if the leaves of a part differ in their leading axis.
    """

    name: str
    train: PyTree[np.ndarray]
    test: PyTree[np.ndarray]
    input_shape: tuple[int, ...]
    output_size: int

    def __post_init__(self):
        for part in ("train", "test"):
            arrays = getattr(self, part)
            lengths = [len(leaf) for leaf in jax.tree.leaves(arrays)]
            if len(set(lengths)) != 1:
                raise DatasetError(
                    f"`Dataset({part}=...)` must hold arrays with the same number of examples, "
                    f"got {lengths} in the dataset `{self.name}`."
                )
            object.__setattr__(self, part, jax.tree.map(_read_only, arrays))

    @property
    def num_train(self) -> int:
        """The number of training examples."""
        return len(jax.tree.leaves(self.train)[0])

    @property
    def num_test(self) -> int:
        """The number of test examples."""
        return len(jax.tree.leaves(self.test)[0])


def _read_only(array: np.ndarray) -> np.ndarray:
    # A view, so that the flag of an array which the caller still holds is left alone.
    view = array.view()
    view.flags.writeable = False
    return view
