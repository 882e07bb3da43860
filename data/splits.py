"""Splits one set of examples into a training part and a test part."""

import numpy as np
from jaxtyping import Int, Shaped

Part = tuple[Shaped[np.ndarray, "..."], Shaped[np.ndarray, "..."]]


def shuffled_split(
    inputs: Shaped[np.ndarray, "n ..."], targets: Shaped[np.ndarray, "n ..."], num_train: int
) -> tuple[Part, Part]:
    """Shuffle with `numpy.random.RandomState(0)`; the first `num_train` train, the rest test.

    The seed is not a setting: the test part must be the same in all runs. NumPy guarantees that
    `RandomState`, unlike `default_rng`, gives the same numbers in every version.

    **Returns:** the training part and the test part, each `(inputs, targets)`.
    """
    train, test = shuffled_numbers(len(inputs), num_train)
    return (inputs[train], targets[train]), (inputs[test], targets[test])


def shuffled_numbers(
    n: int, num_train: int
) -> tuple[Int[np.ndarray, " num_train"], Int[np.ndarray, " num_test"]]:
    """The indices of the examples that `shuffled_split` puts into each part."""
    order = np.random.RandomState(0).permutation(n)
    return order[:num_train], order[num_train:]
