"""Arrays of one's own: what is read is what was written, and bad files are refused in a sentence."""

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


def test_named_parts_are_read_as_they_are(write):
    x, y = inputs(7), np.array([0, 1, 2, 0, 1, 2, 1])
    path = write(train_inputs=x, train_targets=y, test_inputs=x[:3], test_targets=y[:3] + 1, odd=y)
    dataset = data.arrays(path)
    for part, n in ((dataset.train, 7), (dataset.test, 3)):
        np.testing.assert_array_equal(part[0], x[:n])
        assert part[1].dtype == np.int32
    np.testing.assert_array_equal(dataset.test[1], [1, 2, 3])
    assert (dataset.name, dataset.input_shape, dataset.output_size) == ("own", (2, 3), 4)


def test_one_part_is_cut_in_two_the_same_each_time(write):
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
        ({"x": inputs()}, None, "lacks `inputs`, `targets`, and has no arrays"),
        ({"inputs": inputs()}, None, "lacks `targets`, and has `inputs`"),
        ({"train_inputs": inputs(), "targets": inputs()}, None, "lacks `train_targets`, `test_in"),
        ({"inputs": inputs(3), "targets": np.zeros(4)}, None, "got 3 and 4"),
        ({"inputs": inputs(0), "targets": np.zeros(0)}, None, "at least one, got 0 and 0"),
        ({"inputs": inputs(), "targets": np.array(["a"] * 10)}, None, "numbers, got <U1"),
        ({"inputs": inputs(), "targets": np.array([None] * 10)}, None, "Object arrays cannot be"),
        ({"inputs": inputs(), "targets": np.zeros(())}, None, "`targets`.*got a single number"),
        ({"inputs": inputs(), "targets": np.full(10, -1)}, None, "got the integer -1"),
        ({"inputs": np.full((10, 2), np.inf), "targets": np.zeros(10)}, None, "got 20 that are not"),
        ({"inputs": inputs(2), "targets": np.zeros(2)}, None, "`test=0.2` of the 2 examples"),
        ({"inputs": inputs(), "targets": np.zeros(10)}, 1, "between 0 and 1, got 1"),
        ({"inputs": inputs(), "targets": np.zeros(10)}, "a", "between 0 and 1, got 'a'"),
    ],
)
def test_what_cannot_be_used_is_refused(write, arrays, test, said):
    with pytest.raises(DatasetError, match=said) as refused:
        data.arrays(write(**arrays), test=test)
    assert len(str(refused.value).splitlines()) == 1


def test_parts_must_be_of_one_shape_and_a_fraction_is_not_ignored(write):
    x, y = inputs(), np.zeros(10)
    parts = {"train_inputs": x, "train_targets": y, "test_inputs": x, "test_targets": y}
    with pytest.raises(DatasetError, match=r"one shape and kind, got \(2, 3\) of .* and \(3,\)"):
        data.arrays(write(**parts | {"test_inputs": x[:, 0]}))
    with pytest.raises(DatasetError, match=r"got \(1,\) of float64 and \(\) of int32"):
        data.arrays(write(**parts | {"test_targets": y.astype(int)}))
    with pytest.raises(DatasetError, match=r"`test` must be null, since .* got 0.1"):
        data.arrays(write(**parts), test=0.1)


def test_no_file_and_no_npz(tmp_path):
    (tmp_path / "text.npz").write_text("nothing")
    for path, said in (
        (None, "got None: set `dataset.path`"),
        (tmp_path / "nope.npz", "no such file"),
        (tmp_path / "text.npz", "which is not"),
    ):
        with pytest.raises(DatasetError, match=said):
            data.arrays(path)
