"""The class `Dataset`, and the error that every dataset raises."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from .scaling import Scaling


class DatasetError(Exception):
    """A dataset is not available; the message is one sentence: what is wrong and what to do."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training part and a test part, each arranged as the objective takes its batch.

    **Arguments:**

    - `name`: the name in reports.
    - `train`: `(inputs, targets)`, or `{"term": (inputs, targets), ...}`. The leading axis of all
        leaves of a term is its examples. Terms may have different numbers of examples. Inputs are
        floats, labels int32, regression targets floats of shape `[n, d]`.
    - `test`: the same structure, with examples of its own.
    - `input_shape`: the shape of one input.
    - `output_size`: how many numbers a model gives per example: the number of classes, or the
        dimension of a regression target.
    - `validation`: as `train`, from which it was held out; None if there is none, see
        `parts.held_out`.
    - `reference`: `(inputs, targets)` for the model itself. If the terms score the residuals of an
        equation, this is for example its solution. None if there is none.
    - `input_scaling`, `target_scaling`: how the inputs and the targets were standardised; None if
        they were not.
    - `classes`: the names of the classes 0, 1, …; None if they have no names.

    JAX arrays and lists of numbers are converted to NumPy arrays. The arrays are read-only, because
    everything in the process shares one dataset.

    **Raises:** `DatasetError` if the leaves of a term differ in their leading axis.
    """

    name: str
    train: PyTree[np.ndarray]
    test: PyTree[np.ndarray]
    input_shape: tuple[int, ...]
    output_size: int
    reference: tuple[np.ndarray, np.ndarray] | None = None
    validation: PyTree[np.ndarray] | None = None
    input_scaling: Scaling | None = None
    target_scaling: Scaling | None = None
    classes: tuple[str, ...] | None = None

    def __post_init__(self):
        for part in ("train", "test", "reference", "validation"):
            arrays = jax.tree.map(_array, getattr(self, part), is_leaf=_is_list)
            for term in arrays.values() if isinstance(arrays, dict) else [arrays]:
                lengths = _lengths(term)
                if len(set(lengths)) > 1:
                    raise DatasetError(
                        f"`Dataset({part}=...)` must hold arrays with the same number of examples, "
                        f"got {lengths} in the dataset `{self.name}`."
                    )
            object.__setattr__(self, part, jax.tree.map(_read_only, arrays))

    @property
    def num_train(self) -> int | None:
        """The number of training examples; None if it differs between terms."""
        return _common(_lengths(self.train))

    @property
    def num_test(self) -> int | None:
        """The number of test examples; None if it differs between terms."""
        return _common(_lengths(self.test))


def _lengths(arrays: PyTree[np.ndarray]) -> list[int]:
    return [len(leaf) for leaf in jax.tree.leaves(arrays)]


def _common(lengths: list[int]) -> int | None:
    return lengths[0] if len(set(lengths)) == 1 else None


def _is_list(values: object) -> bool:
    return isinstance(values, list)


def _array(values: Any) -> np.ndarray:
    """A NumPy array from any array, or from a list of numbers, which gets JAX's default dtypes."""
    array = np.asarray(values)
    plain = {"f": np.float32, "i": np.int32}
    return array.astype(plain.get(array.dtype.kind, array.dtype)) if _is_list(values) else array


def _read_only(array: np.ndarray) -> np.ndarray:
    # A view has a flag of its own: the caller's array stays writable.
    view = array.view()
    view.flags.writeable = False
    return view
