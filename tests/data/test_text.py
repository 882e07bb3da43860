"""The windows of a text agree with windows that are cut from it one by one."""

from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets

from data import DatasetError, text

SAMPLE = "Straße, naïve, 東京 🙂\r\n" * 40


@pytest.fixture
def write(tmp_path):
    def write(content, name="text.txt"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def cut(part, context, vocabulary):
    """Inputs and targets as lists of numbers, for one window after the other."""
    numbers = [vocabulary.index(character) for character in part]
    starts = range(0, len(numbers) - context, context)
    return (
        [numbers[start : start + context] for start in starts],
        [numbers[start + 1 : start + context + 1] for start in starts],
    )


# There are 720 characters to train and 80 to test. 1 and 20 divide both numbers, 7 divides neither,
# and with 79 the characters to test are exactly one window and its last target.
@pytest.mark.parametrize("context", [1, 7, 20, 79])
def test_windows_are_those_cut_by_hand(write, context):
    characters = SAMPLE[:800]
    dataset = text(write(characters), context)
    vocabulary = sorted(set(characters))
    assert dataset.input_shape == (context,)
    assert dataset.output_size == len(vocabulary)
    for part, characters_of_part in [
        (dataset.train, characters[:720]),
        (dataset.test, characters[720:]),
    ]:
        for array, expected in zip(part, cut(characters_of_part, context, vocabulary), strict=True):
            assert array.dtype == np.int32
            np.testing.assert_array_equal(array, expected)


def test_the_bundled_text_is_that_of_the_descriptions_in_scikit_learn():
    folder = Path(sklearn.datasets.__file__).parent / "descr"
    names = sorted(path.name for path in folder.iterdir() if path.suffix == ".rst")
    characters = "".join((folder / name).read_bytes().decode() for name in names)
    assert len(characters) > 30_000
    vocabulary = sorted(set(characters))
    inputs, targets = text(context=50).train
    expected = cut(characters[: int(0.9 * len(characters))], 50, vocabulary)
    np.testing.assert_array_equal(inputs, expected[0])
    np.testing.assert_array_equal(targets, expected[1])


def test_a_path_is_relative_to_the_current_folder_and_may_start_at_home(write, monkeypatch):
    home, elsewhere = write(SAMPLE), write(SAMPLE[::-1], "other.txt")
    monkeypatch.chdir(home.parent)
    monkeypatch.setenv("HOME", str(home.parent))
    assert text("text.txt") is text("~/text.txt")
    assert text("text.txt") is text(home)
    assert text("other.txt") is text(str(elsewhere))
    assert text("other.txt") is not text(home)
    assert text(home, context=8) is not text(home)


@pytest.mark.parametrize("context", [0, -1, 2.0, True, "64", None])
def test_context_must_be_a_positive_integer(context):
    message = rf"`text\(context=...\)` must be a positive integer, got {context!r}\."
    with pytest.raises(DatasetError, match=message):
        text(context=context)


@pytest.mark.parametrize(("characters", "train", "test"), [("", 0, 0), ("ab" * 50, 90, 10)])
def test_a_text_that_is_too_short_is_refused(write, characters, train, test):
    message = rf"`text\(context=10\)` needs at least 11 .* got {train} to train and {test} to test"
    with pytest.raises(DatasetError, match=message):
        text(write(characters), context=10)
    if test:
        assert text(write(characters), context=9).num_test == 1


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(DatasetError, match=r"`text\(path=...\)` .*nope.txt`: No such file"):
        text(tmp_path / "nope.txt")
    with pytest.raises(DatasetError, match=r"`text\(path=...\)` must be a file.*Is a directory"):
        text(tmp_path)


def test_a_file_that_is_not_utf_8_is_refused(write):
    with pytest.raises(DatasetError, match=r"must be a text in UTF-8, got .*byte 2 is not"):
        text(write("naïve".encode("latin-1")))
