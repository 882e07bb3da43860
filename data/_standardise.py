import numpy as np
from jaxtyping import Float


def standardise(
    columns: Float[np.ndarray, "n d"], *, by: Float[np.ndarray, "m d"]
) -> Float[np.ndarray, "n d"]:
    """(x − mean)/deviation for each column; both statistics are those of `by`; float32.

    A column that is constant over `by` is only centred.
    """
    deviation = by.std(axis=0)
    return ((columns - by.mean(axis=0)) / np.where(deviation > 0, deviation, 1)).astype(np.float32)
