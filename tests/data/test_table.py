"""The user's own tables are standardised as by hand, and bad tables are refused."""

import numpy as np
import pytest

import data
from data import DatasetError


@pytest.fixture
def write(tmp_path):
    def make(*lines):
        (tmp_path / "own.csv").write_text("\n".join(lines) + "\n")
        return tmp_path / "own.csv"

    return make


def lines(kind, n=10):
    """The lines of a table with inputs `a` and `b`, which is constant, and targets from `kind`."""
    targets = [kind[k % len(kind)] for k in range(n)]
    return ["a,y,b", *(f"{k * k},{target}, 0.1" for k, target in enumerate(targets))]


@pytest.mark.parametrize(
    ("kind", "classes"),
    [
        (["cat", "dog", "ape"], ["ape", "cat", "dog"]),
        (["10", "9"], ["9", "10"]),
        (["1_0", "0_1"], ["0_1", "1_0"]),
    ],
)
def test_text_and_integers_are_classes_in_sorted_order(write, kind, classes):
    dataset = data.csv(write(*lines(kind)), "y")
    assert (dataset.num_train, dataset.num_test) == (8, 2)
    assert (dataset.input_shape, dataset.output_size) == ((2,), len(classes))
    assert dataset.classes == tuple(classes)
    assert dataset.target_scaling is None
    order = np.random.RandomState(0).permutation(10)
    expected = np.array([classes.index(kind[k % len(kind)]) for k in range(10)])[order]
    for part, chosen in ((dataset.train, slice(8)), (dataset.test, slice(8, None))):
        assert part[1].dtype == np.int32
        np.testing.assert_array_equal(part[1], expected[chosen])
    column = (np.arange(10.0) ** 2)[order]
    by = column[:8]
    np.testing.assert_allclose(
        dataset.test[0][:, 0], (column[8:] - by.mean()) / by.std(), rtol=1e-6
    )
    np.testing.assert_array_equal(dataset.test[0][:, 1], 0)  # constant over the training part


def test_the_name_of_a_column_may_be_a_number(write):
    """In YAML, and so on the command line, such a name is a number."""
    table = [line.replace("y", "2020") for line in lines(["cat", "dog"])]
    assert data.csv(write(*table), 2020).classes == ("cat", "dog")


def test_numbers_are_standardised_by_the_training_part(write):
    dataset = data.csv(write(*lines(["0.5", "2", "1e3"])), "y", test=0.4)
    assert (dataset.num_train, dataset.output_size) == (6, 1)
    y = np.array([[0.5, 2, 1e3][k % 3] for k in np.random.RandomState(0).permutation(10)])
    by = y[:6]
    np.testing.assert_allclose(
        np.concatenate([dataset.train[1], dataset.test[1]])[:, 0],
        (y - by.mean()) / by.std(),
        rtol=1e-6,
    )
    # New rows can be scaled alike, and outputs scaled back.
    a = (np.arange(10.0) ** 2)[np.random.RandomState(0).permutation(10)]
    rows = np.stack([a, np.full(10, 0.1)], axis=1)
    parts = np.concatenate([dataset.train[0], dataset.test[0]])
    np.testing.assert_array_equal(dataset.input_scaling.apply(rows), parts)
    outputs = np.concatenate([dataset.train[1], dataset.test[1]])
    np.testing.assert_allclose(dataset.target_scaling.undo(outputs)[:, 0], y, rtol=1e-5, atol=1e-4)
    assert dataset.classes is None


@pytest.mark.parametrize(
    ("written", "target", "said"),
    [
        (lines("01"), "z", "one of `a`, `y`, `b`, got 'z'"),
        (lines("01"), None, "got None: set `dataset.target`"),
        ([], "y", "got nothing and 0 lines"),
        (["a,y"], "y", "got a, y and 0 lines"),
        (["a,a", "1,2"], "a", "different column names"),
        (["a,y", "1,2", "3"], "y", "Row 3 .* must have 2 entries, .* got 1"),
        (["a,y", "1,0", "x,1"], "y", "column `a`, got 'x' in row 3"),
        (["a,y", "1,0", "1_0,1"], "y", "column `a`, got '1_0' in row 3"),
        (lines("01"), 2020, "one of `a`, `y`, `b`, got '2020'"),
        (["a,y", "1,0", ",1"], "y", "column `a`, got 'nothing' in row 3"),
        (["a,y", "1,0", "nan,1"], "y", "column `a`, got 'nan' in row 3"),
        (["a,y", "1,0", "1,"], "y", "column `y`, got nothing in row 3"),
        (["a,y", "1,0.5", "1,nan"], "y", "column `y`, got 'nan' in row 3"),
        (["a,y", "1,0.5", "1,NA"], "y", "got '0.5' in row 2 and 'NA' in row 3"),
        (["a,y", "1,b", "1,b"], "y", "at least two classes, got 'b'"),
        (["a,y", "1,0", "1,1"], "y", "`test=0.2` of the 2 examples"),
        (["a,y", *(f"1,{k}" for k in range(21))], "y", "21 different entries in 21 rows, too many"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(write, written, target, said):
    with pytest.raises(DatasetError, match=said) as refused:
        data.csv(write(*written), target)
    assert len(str(refused.value).splitlines()) == 1


def test_a_table_may_have_twenty_classes_or_more_with_two_rows_each(write):
    rows = [f"1,{k}" for k in range(21)]
    assert data.csv(write("a,y", *rows, *rows), "y").output_size == 21
    assert data.csv(write("a,y", *rows[:20]), "y").output_size == 20


def test_a_missing_file_and_a_file_that_is_no_text_are_refused(tmp_path):
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\xff")
    for path, said in (
        (None, "got None: set `dataset.path`"),
        (tmp_path / "nope.csv", "no such file"),
        (tmp_path / "bytes.csv", "cannot read"),
        (tmp_path, "cannot read"),
    ):
        with pytest.raises(DatasetError, match=said):
            data.csv(path, "y")
