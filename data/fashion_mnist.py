"""Fashion-MNIST, pictures of clothes in the format of MNIST."""

import functools

from ._base import Dataset
from ._mnist_files import read_dataset
from ._source import Source

FASHION_MNIST = Source(
    folder="fashion_mnist",
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ),
    sha256={
        "train-images-idx3-ubyte.gz": (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
        ),
        "train-labels-idx1-ubyte.gz": (
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
        ),
        "t10k-images-idx3-ubyte.gz": (
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
        ),
        "t10k-labels-idx1-ubyte.gz": (
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
        ),
    },
)


@functools.cache
def fashion_mnist() -> Dataset:
    """Fashion-MNIST: 60,000 pictures to train, 10,000 to test, pixels divided by 255.

    Inputs `[n, 28, 28]` in [0, 1], labels `[n]` in 0, ..., 9. Taken from
    `$CURVATURE_DATA/fashion_mnist` if it is there, else downloaded once.

    Source: H. Xiao, K. Rasul and R. Vollgraf, *Fashion-MNIST: a Novel Image Dataset for
    Benchmarking Machine Learning Algorithms*, arXiv:1708.07747 (2017).

    **Raises:** `DatasetError` if a file is not available or has the wrong checksum.
    """
    return read_dataset("fashion_mnist", FASHION_MNIST)
