"""Which examples make up which batch."""

import numpy as np
from jaxtyping import Int


def batch_indices(
    seed: int, epoch: int, n: int, batch_size: int
) -> Int[np.ndarray, "batches batch_size"]:
    """The batches of one epoch: a permutation of the examples, cut into full batches.

    The permutation depends on `seed` and `epoch` alone, so any batch can be recomputed: step
    `s`, counted from 0, takes row `s % m` of epoch `s // m`, with `m = n // batch_size`.

        >>> batch_indices(seed=0, epoch=0, n=7, batch_size=3).shape
        (2, 3)

    **Arguments:**

    - `seed`, `epoch`: non-negative integers.
    - `n`: the number of examples.
    - `batch_size`: the number of examples in a batch. The `n % batch_size` examples that are
        left over are not used in this epoch; they differ from epoch to epoch.

    **Returns:** indices into the examples, of shape `[n // batch_size, batch_size]`.

    **Raises:** `ValueError` if `batch_size` is not in 1, ..., n.
    """
    if not 1 <= batch_size <= n:
        raise ValueError(
            f"`batch_size` must be at least 1 and at most the number of examples, {n}, "
            f"got {batch_size}."
        )
    permutation = np.random.default_rng([seed, epoch]).permutation(n)
    return permutation[: n - n % batch_size].reshape(-1, batch_size)
