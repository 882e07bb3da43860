"""Handwritten digits, 8 × 8 pixels, bundled with scikit-learn."""

import functools
from typing import Any

import numpy as np

from ._base import Dataset
from ._sklearn import sklearn_datasets
from .splits import shuffled_split


@functools.cache
def digits() -> Dataset:
    """scikit-learn's 1,797 digits: 1,437 to train, 360 to test, pixels divided by 16.

    Inputs `[n, 8, 8]` in [0, 1], labels `[n]` in 0, ..., 9. Needs no network.

    Source: E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine
    Learning Repository, 1998 (its test set).
    """
    pixels, labels = _load_published()
    images = (pixels / 16).astype(np.float32).reshape(-1, 8, 8)
    train, test = shuffled_split(images, labels.astype(np.int32), num_train=1437)
    return Dataset("digits", train, test, input_shape=(8, 8), output_size=10)


def _load_published() -> tuple[np.ndarray, np.ndarray]:
    """What `sklearn.datasets.load_digits` returns: pixels from 0 to 16, and labels."""
    file = sklearn_datasets() / "data" / "digits.csv.gz"
    if not file.exists():  # another version of scikit-learn may keep it elsewhere
        from sklearn.datasets import load_digits

        loaded: Any = load_digits()
        return loaded.data, loaded.target
    table = np.loadtxt(file, delimiter=",")
    return table[:, :-1], table[:, -1]
