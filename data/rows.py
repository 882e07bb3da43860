"""Examples that are read only when they are indexed."""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Int, PyTree


@dataclass(frozen=True, eq=False)
class Rows:
    """Examples of arrays that are read only when they are indexed, such as memory-mapped files.

    **Arguments:**

    - `arrays`: as a part of a `Dataset`, all with the same number of examples.
    - `types`: the dtypes to which examples are converted when read; None: no conversion.
    - `chosen`: the indices of the chosen examples, in their order; None: all.
    """

    arrays: PyTree[np.ndarray]
    types: PyTree[np.dtype] | None = None
    chosen: Int[np.ndarray, " n"] | None = None

    def __len__(self) -> int:
        return len(jax.tree.leaves(self.arrays)[0]) if self.chosen is None else len(self.chosen)

    def __getitem__(self, which: slice | Int[np.ndarray, " m"]) -> PyTree[np.ndarray]:
        """Read some examples, by their indices among the chosen ones."""
        rows = which if self.chosen is None else self.chosen[which]
        read = jax.tree.map(lambda array: np.asarray(array[rows]), self.arrays)
        if self.types is None:
            return read
        return jax.tree.map(lambda array, of: array.astype(of, copy=False), read, self.types)

    def subset(self, which: slice | Int[np.ndarray, " m"]) -> "Rows":
        """Some of the examples; reads none."""
        chosen = np.arange(len(self)) if self.chosen is None else self.chosen
        return Rows(self.arrays, self.types, chosen[which])
