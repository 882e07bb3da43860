"""MNIST, handwritten digits, 28 × 28 pixels."""

import functools

from ._base import Dataset
from ._mnist_files import MNIST, read_dataset


@functools.cache
def mnist() -> Dataset:
    """MNIST: 60,000 digits to train, 10,000 to test, pixels divided by 255.

    Inputs `[n, 28, 28]` in [0, 1], labels `[n]` in 0, ..., 9. Taken from
    `$CURVATURE_DATA/mnist` if it is there, else downloaded once.

    Source: Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, *Gradient-Based Learning Applied to
    Document Recognition*, Proceedings of the IEEE 86 (1998).

    **Raises:** `DatasetError` if a file is not available or has the wrong checksum.
    """
    return read_dataset("mnist", MNIST)
