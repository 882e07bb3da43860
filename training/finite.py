"""Refuses inputs that are not finite."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

import curvature as cv

from .terms import examples

_ROWS = 4096  # checked at a time, so that the copy in float64 is small


def check_inputs(objective: cv.AbstractObjective, part: PyTree[Array], source: str) -> None:
    """Raise unless all inputs are finite.

    **Arguments:** `part`: of a dataset; `source`: the name of the part in the error message.

    **Raises:** `ValueError` that names the first example with NaN or infinite inputs.
    """
    for name, (inputs, *_) in examples(objective, part).items():
        for leaf in jax.tree.leaves(inputs):
            if not jnp.issubdtype(leaf.dtype, jnp.floating):  # NumPy does not know bfloat16
                continue
            first = _first_wrong(leaf)
            if first is not None:
                of_term = f" of the term `{name}`" if name else ""
                raise ValueError(
                    f"The inputs of {source}{of_term} hold NaN or infinite numbers, first in "
                    f"example {first}. Remove such examples, or fill in the missing numbers."
                )


def _first_wrong(array: Array | np.ndarray) -> int | None:
    for start in range(0, len(array), _ROWS):
        rows = np.asarray(array[start : start + _ROWS]).astype(np.float64)
        wrong = ~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
        if wrong.any():
            return start + int(wrong.argmax())
    return None
