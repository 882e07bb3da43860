"""Reading the four files of MNIST, and of datasets in the same format."""

from typing import Literal

import numpy as np
from jaxtyping import Float32, Int32

from ._base import Dataset
from ._source import Source
from .idx import read_idx

Images = Float32[np.ndarray, "images height width"]
Labels = Int32[np.ndarray, " labels"]

MNIST = Source(
    folder="mnist",
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    sha256={
        "train-images-idx3-ubyte.gz": (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
        ),
        "train-labels-idx1-ubyte.gz": (
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
        ),
        "t10k-images-idx3-ubyte.gz": (
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
        ),
        "t10k-labels-idx1-ubyte.gz": (
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
        ),
    },
)


def read_part(source: Source, part: Literal["train", "t10k"]) -> tuple[Images, Labels]:
    """The images of one part, divided by 255, and their labels.

    **Raises:** `DatasetError` if a file is not available or not valid.
    """
    # Imported here, because pooch and requests take long to import, and few runs need them.
    from .download import fetch

    images = read_idx(fetch(source, f"{part}-images-idx3-ubyte.gz"), dimensions=3)
    labels = read_idx(fetch(source, f"{part}-labels-idx1-ubyte.gz"), dimensions=1)
    # `dtype` avoids an intermediate float64 array: 376 MB for the training images.
    return np.divide(images, 255, dtype=np.float32), labels.astype(np.int32)


def read_dataset(name: str, source: Source) -> Dataset:
    """Both parts of a dataset with ten classes, as published.

    **Raises:** `DatasetError` if a file is not available or not valid.
    """
    train, test = read_part(source, "train"), read_part(source, "t10k")
    return Dataset(name, train, test, input_shape=train[0].shape[1:], output_size=10)
