"""What every dataset returns, and the error that every dataset raises."""

from dataclasses import dataclass
from typing import Any

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
    - `train`: `(inputs, targets)`, or `{"term": (inputs, targets), ...}`; all leaves of a term
        have the same leading axis, its examples. Terms may have different numbers of them.
        Inputs are floats, labels int32, regression targets floats of shape `[n, d]`.
    - `test`: the same structure, with examples of its own.
    - `input_shape`: the shape of one input.
    - `output_size`: how many numbers a model gives per example: the number of classes, or the
        dimension of a regression target.
    - `validation`: as `train`, held out of it; None where nothing is, see `parts.held_out`.
    - `reference`: `(inputs, targets)` that the model itself is to give, such as the solution of
        the equation whose residuals the terms score; None where there is none.

    Arrays of JAX and lists of numbers become NumPy's. The arrays are held read-only, because one
    dataset is shared by everything in the process.

    **Raises:** `DatasetError` if the leaves of a term differ in their leading axis.
    """

    name: str
    train: PyTree[np.ndarray]
    test: PyTree[np.ndarray]
    input_shape: tuple[int, ...]
    output_size: int
    reference: tuple[np.ndarray, np.ndarray] | None = None
    validation: PyTree[np.ndarray] | None = None

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
        """The number of training examples; None where terms have different numbers of them."""
        return _common(_lengths(self.train))

    @property
    def num_test(self) -> int | None:
        """The number of test examples; None where terms have different numbers of them."""
        return _common(_lengths(self.test))


def _lengths(arrays: PyTree[np.ndarray]) -> list[int]:
    return [len(leaf) for leaf in jax.tree.leaves(arrays)]


def _common(lengths: list[int]) -> int | None:
    return lengths[0] if len(set(lengths)) == 1 else None


def _is_list(values: object) -> bool:
    return isinstance(values, list)


def _array(values: Any) -> np.ndarray:
    """A NumPy array of any array, or of a list of numbers, in the dtypes that JAX has for these."""
    array = np.asarray(values)
    plain = {"f": np.float32, "i": np.int32}
    return array.astype(plain.get(array.dtype.kind, array.dtype)) if _is_list(values) else array


def _read_only(array: np.ndarray) -> np.ndarray:
    # A view, so that the flag of an array which the caller still holds is left alone.
    view = array.view()
    view.flags.writeable = False
    return view
