"""A small MNIST, made of the test files only."""

import functools

from ._base import Dataset
from ._mnist_files import MNIST, read_part
from .splits import shuffled_split


@functools.cache
def mnist10k() -> Dataset:
    """The 10,000 MNIST test images, shuffled: 8,000 to train, 2,000 to test, divided by 255.

    It needs two small files instead of four. Inputs `[n, 28, 28]` in [0, 1], labels `[n]` in
    0, ..., 9. Accuracies are not comparable with those on MNIST itself, which has 60,000 images to
    train.

    **Raises:** `DatasetError` if a file is not available or has the wrong checksum.
    """
    train, test = shuffled_split(*read_part(MNIST, "t10k"), num_train=8000)
    return Dataset("mnist10k", train, test, input_shape=(28, 28), output_size=10)
