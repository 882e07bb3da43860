"""MNIST and Fashion-MNIST, from small invented files and from the published ones if present."""

import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

import data
from data import DatasetError
from data._mnist_files import MNIST, read_dataset
from data._source import Source
from data.fashion_mnist import FASHION_MNIST


@pytest.fixture
def tiny(tmp_path, monkeypatch, idx_bytes):
    """Three training and two test images of 2 × 4 pixels; arguments replace contents of files."""

    def publish(**replaced):
        contents = {
            "train-images-idx3": idx_bytes((3, 2, 4), range(0, 240, 10)),
            "train-labels-idx1": idx_bytes((3,), [7, 0, 9]),
            "t10k-images-idx3": idx_bytes((2, 2, 4), range(255, 239, -1)),
            "t10k-labels-idx1": idx_bytes((2,), [1, 2]),
        } | {name.replace("_", "-"): content for name, content in replaced.items()}
        folder = tmp_path / "tiny"
        folder.mkdir()
        for name, content in contents.items():
            (folder / f"{name}-ubyte.gz").write_bytes(content)
        monkeypatch.setenv("CURVATURE_DATA", str(tmp_path))
        sums = {
            f"{name}-ubyte.gz": hashlib.sha256(content).hexdigest()
            for name, content in contents.items()
        }
        return Source("tiny", mirrors=(), sha256=sums)

    return publish


def test_four_files_become_one_dataset(tiny):
    dataset = read_dataset("tiny", tiny())
    assert (dataset.num_train, dataset.num_test) == (3, 2)
    assert dataset.input_shape == (2, 4)
    assert dataset.output_size == 10
    inputs, labels = dataset.train
    assert inputs.dtype == np.float32
    assert labels.dtype == np.int32
    expected = np.arange(0, 240, 10).reshape(3, 2, 4) / 255
    np.testing.assert_array_equal(inputs, expected.astype(np.float32))
    np.testing.assert_array_equal(labels, [7, 0, 9])
    np.testing.assert_array_equal(dataset.test[1], [1, 2])
    assert dataset.test[0].max() == 1


def test_labels_in_place_of_images_are_refused(tiny, idx_bytes):
    source = tiny(train_images_idx3=idx_bytes((3,), [7, 0, 9]))
    with pytest.raises(DatasetError, match=r"train-images-idx3-ubyte.gz.*in 3 dimensions"):
        read_dataset("tiny", source)


def test_another_number_of_labels_than_of_images_is_refused(tiny, idx_bytes):
    source = tiny(t10k_labels_idx1=idx_bytes((3,), [1, 2, 3]))
    with pytest.raises(DatasetError, match=r"got \[2, 3\] in the dataset `tiny`"):
        read_dataset("tiny", source)


def test_mnist_and_fashion_mnist_have_equal_file_names_and_different_checksums():
    assert MNIST.sha256.keys() == FASHION_MNIST.sha256.keys()
    sums = [*MNIST.sha256.values(), *FASHION_MNIST.sha256.values()]
    assert len(set(sums)) == 8
    assert all(len(bytes.fromhex(each)) == 32 for each in sums)


@pytest.fixture
def published():
    """The folder of the published MNIST files; without it the test is skipped."""
    root = os.environ.get("CURVATURE_DATA")
    if not root:
        pytest.skip("CURVATURE_DATA is not set: there is no MNIST to compare with")
    folder = Path(root) / "mnist"
    if not (folder / "t10k-images-idx3-ubyte.gz").exists():
        pytest.skip("CURVATURE_DATA has no folder mnist/ with the test files of MNIST")
    return folder


def test_mnist10k_is_the_documented_split(published):
    pixels = gzip.decompress((published / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((published / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
    order = np.random.RandomState(0).permutation(10000)
    images = np.frombuffer(pixels, np.uint8).reshape(10000, 28, 28)[order]
    images = images.astype(np.float32) / np.float32(255)
    labels = np.frombuffer(labels, np.uint8)[order]

    dataset = data.mnist10k()
    assert dataset is data.mnist10k()
    assert (dataset.num_train, dataset.num_test) == (8000, 2000)
    assert dataset.input_shape == (28, 28)
    assert dataset.output_size == 10
    np.testing.assert_array_equal(dataset.train[0], images[:8000])
    np.testing.assert_array_equal(dataset.test[0], images[8000:])
    np.testing.assert_array_equal(dataset.train[1], labels[:8000])
    np.testing.assert_array_equal(dataset.test[1], labels[8000:])
    assert dataset.train[1].dtype == np.int32
