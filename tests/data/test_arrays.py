"""The user's own arrays are read as they were written, and bad files are refused."""

import numpy as np
import pytest

import data
from data import DatasetError


@pytest.fixture
def write(tmp_path):
    def make(**arrays):
        np.savez(tmp_path / "own.npz", **arrays)
        return tmp_path / "own.npz"

    return make


def inputs(n=10):
    return np.arange(n * 6, dtype=np.float64).reshape(n, 2, 3)


def test_named_parts_are_read_unchanged(write):
    x, y = inputs(7), np.array([0, 1, 2, 0, 1, 2, 1])
    path = write(train_inputs=x, train_targets=y, test_inputs=x[:3], test_targets=y[:3] + 1, odd=y)
    dataset = data.arrays(path)
    for part, n in ((dataset.train, 7), (dataset.test, 3)):
        np.testing.assert_array_equal(part[0], x[:n])
        assert part[1].dtype == np.int32
    np.testing.assert_array_equal(dataset.test[1], [1, 2, 3])
    assert (dataset.name, dataset.input_shape, dataset.output_size) == ("own", (2, 3), 4)


def test_arrays_of_one_part_are_split_in_the_same_way_each_time(write):
    x, y = inputs(10), np.linspace(0, 1, 10)
    dataset = data.arrays(write(inputs=x, targets=y), test=0.3)
    assert (dataset.num_train, dataset.num_test, dataset.output_size) == (7, 3, 1)
    together = np.concatenate([dataset.train[1], dataset.test[1]])
    assert together.shape == (10, 1)
    np.testing.assert_array_equal(np.sort(together, axis=0), y[:, None])
    for part in (dataset.train, dataset.test):
        np.testing.assert_array_equal(part[0], x[np.searchsorted(y, part[1][:, 0])])
    again = data.arrays(write(inputs=x, targets=y), test=0.3)
    np.testing.assert_array_equal(again.test[1], dataset.test[1])
    assert data.arrays(write(inputs=x, targets=y)).num_test == 2


@pytest.mark.parametrize(
    ("arrays", "test", "said"),
    [
        ({"x": inputs()}, None, "has none of them and lacks `inputs`, `targets`"),
        ({"inputs": inputs()}, None, "has `inputs` and lacks `targets`"),
        ({"train_inputs": inputs(), "targets": inputs()}, None, "lacks `train_targets`, `test_in"),
        ({"inputs": inputs(3), "targets": np.zeros(4)}, None, "got 3 and 4"),
        ({"inputs": inputs(0), "targets": np.zeros(0)}, None, "at least one, got 0 and 0"),
        ({"inputs": inputs(), "targets": np.array(["a"] * 10)}, None, "numbers, got <U1"),
        ({"inputs": inputs(), "targets": np.array([None] * 10)}, None, "Object arrays cannot be"),
        ({"inputs": inputs(), "targets": np.zeros(())}, None, "`targets`.*got a single number"),
        ({"inputs": inputs(), "targets": np.full(10, -1)}, None, "got the integer -1"),
        (
            {"inputs": inputs(), "targets": np.arange(2, 12)},
            None,
            r"got labels from 2\. Subtract 2",
        ),
        ({"inputs": np.full((9, 2), np.inf), "targets": np.zeros(9)}, None, "got 18 that are not"),
        ({"inputs": inputs(2), "targets": np.zeros(2)}, None, "`test=0.2` of the 2 examples"),
        ({"inputs": inputs(), "targets": np.zeros(10)}, 1, "between 0 and 1, got 1"),
        ({"inputs": inputs(), "targets": np.zeros(10)}, "a", "between 0 and 1, got 'a'"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(write, arrays, test, said):
    with pytest.raises(DatasetError, match=said) as refused:
        data.arrays(write(**arrays), test=test)
    assert len(str(refused.value).splitlines()) == 1


def test_parts_of_different_shapes_and_an_unused_fraction_are_refused(write):
    x, y = inputs(), np.zeros(10)
    parts = {"train_inputs": x, "train_targets": y, "test_inputs": x, "test_targets": y}
    with pytest.raises(DatasetError, match=r"one shape and kind, got \(2, 3\) of .* and \(3,\)"):
        data.arrays(write(**parts | {"test_inputs": x[:, 0]}))
    with pytest.raises(DatasetError, match=r"got \(1,\) of float64 and \(\) of int32"):
        data.arrays(write(**parts | {"test_targets": y.astype(np.int32)}))
    with pytest.raises(DatasetError, match=r"`test` must be null, since .* got 0.1"):
        data.arrays(write(**parts), test=0.1)


@pytest.fixture
def write_folder(tmp_path):
    def make(**arrays):
        (tmp_path / "own").mkdir(exist_ok=True)
        for name, array in arrays.items():
            np.save(tmp_path / "own" / f"{name}.npy", array)
        return tmp_path / "own"

    return make


@pytest.mark.parametrize("targets", [np.arange(10) % 3, np.arange(10.0), np.arange(10) > 3])
def test_a_folder_has_the_examples_of_a_file(write, write_folder, targets):
    whole = {"inputs": inputs(), "targets": targets}
    parts = {f"{part}_{name}": array for part in ("train", "test") for name, array in whole.items()}
    for arrays in (whole, parts):
        dataset, stream = data.arrays(write(**arrays)), data.arrays(write_folder(**arrays))
        assert isinstance(stream, data.Stream)
        assert stream.num_train == dataset.num_train
        assert (stream.input_shape, stream.output_size) == (
            dataset.input_shape,
            dataset.output_size,
        )
        for rows, part in ((stream.train, dataset.train), (stream.test, dataset.test)):
            assert isinstance(rows.arrays[0], np.memmap)
            for found, expected in zip(rows[:], part, strict=True):
                np.testing.assert_array_equal(found, expected, strict=True)
        for file in write_folder().iterdir():
            file.unlink()


def test_bad_folders_are_refused(write_folder):
    folder = write_folder(inputs=np.array([None] * 10), targets=np.zeros(10))
    with pytest.raises(DatasetError, match=r"Cannot read `.*inputs.npy`: .*Python objects"):
        data.arrays(folder)
    (folder / "inputs.npy").write_text("")
    with pytest.raises(DatasetError, match=r"Cannot read `.*inputs.npy`"):
        data.arrays(folder)
    (folder / "inputs.npy").unlink()
    with pytest.raises(DatasetError, match="has `targets` and lacks `inputs`"):
        data.arrays(folder)


def test_held_out_and_first_of_accept_a_folder(write_folder):
    folder = write_folder(inputs=inputs(20), targets=np.arange(20.0))
    stream = data.held_out(data.arrays(folder), 0.25)
    assert (len(stream.train), len(stream.validation), len(stream.test)) == (12, 4, 4)
    together = np.concatenate(
        [part[:][1] for part in (stream.train, stream.validation, stream.test)]
    )
    np.testing.assert_array_equal(np.sort(together[:, 0]), np.arange(20))
    first = data.first_of(stream, 5).train
    np.testing.assert_array_equal(first[:][1], stream.train[:5][1])


def test_a_missing_file_and_a_file_that_is_no_npz_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("nothing")
    for path, said in (
        (None, "got None: set `dataset.path`"),
        (tmp_path / "nope.npz", "no such file"),
        (tmp_path / "text.npz", "which is neither"),
    ):
        with pytest.raises(DatasetError, match=said):
            data.arrays(path)
