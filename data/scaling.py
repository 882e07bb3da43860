from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Scaling(NamedTuple):
    """How the columns of a table were standardised, x ↦ (x − mean)/deviation.

    - `mean`, `deviation`: of each column of the training part, read-only. Where a column is
        constant, `deviation` is 1.
    """

    mean: Float[np.ndarray, " d"]
    deviation: Float[np.ndarray, " d"]

    @classmethod
    def of(cls, columns: Float[np.ndarray, "n d"]) -> "Scaling":
        """The scaling that gives these columns mean 0 and, unless constant, deviation 1."""
        # Rounding makes the deviation of a constant column, such as 0.1, a tiny positive number.
        constant = np.ptp(columns, axis=0) == 0
        mean = np.where(constant, columns[0], columns.mean(axis=0))
        deviation = np.where(constant, 1, columns.std(axis=0))
        for numbers in (mean, deviation):
            numbers.flags.writeable = False
        return cls(mean, deviation)

    def apply(self, columns: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Columns in their own units, standardised; float32."""
        return ((columns - self.mean) / self.deviation).astype(np.float32)

    def undo(self, columns: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Standardised columns in their own units, in float64."""
        return np.asarray(columns, np.float64) * self.deviation + self.mean
