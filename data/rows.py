"""Examples that stay where they are until they are asked for."""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Int, PyTree


@dataclass(frozen=True, eq=False)
class Rows:
    """Examples of arrays that are read as they are asked for, as memory-mapped files are.

    **Arguments:**

    - `arrays`: as a part of a `Dataset`, all with the same number of examples.
    - `types`: of the arrays when they have been read; None: as they are.
    - `chosen`: which of the examples these are, in this order; None: all.
    """

    arrays: PyTree[np.ndarray]
    types: PyTree[np.dtype] | None = None
    chosen: Int[np.ndarray, " n"] | None = None

    def __len__(self) -> int:
        return len(jax.tree.leaves(self.arrays)[0]) if self.chosen is None else len(self.chosen)

    def __getitem__(self, which: slice | Int[np.ndarray, " m"]) -> PyTree[np.ndarray]:
        """Some examples, by their numbers among these."""
        rows = which if self.chosen is None else self.chosen[which]
        read = jax.tree.map(lambda array: np.asarray(array[rows]), self.arrays)
        if self.types is None:
            return read
        return jax.tree.map(lambda array, of: array.astype(of, copy=False), read, self.types)

    def subset(self, which: slice | Int[np.ndarray, " m"]) -> "Rows":
        """Some of the examples, none of which is read."""
        chosen = np.arange(len(self)) if self.chosen is None else self.chosen
        return Rows(self.arrays, self.types, chosen[which])
