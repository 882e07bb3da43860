"""Handwritten digits, 8 × 8 pixels, bundled with scikit-learn."""

import functools

import numpy as np

from ._base import Dataset
from .splits import shuffled_split


@functools.cache
def digits() -> Dataset:
    """scikit-learn's 1,797 digits: 1,437 to train, 360 to test, pixels divided by 16.

    Inputs `[n, 8, 8]` in [0, 1], labels `[n]` in 0, ..., 9. Needs no network.

    Source: E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine
    Learning Repository, 1998 (its test set).
    """
    # Not at the top: importing scikit-learn takes 0.6 s, which every other dataset would pay.
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).astype(np.float32).reshape(-1, 8, 8)
    train, test = shuffled_split(images, labels.astype(np.int32), num_train=1437)
    return Dataset("digits", train, test, input_shape=(8, 8), output_size=10)
