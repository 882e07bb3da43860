"""The user's own table, in a file of comma-separated values."""

import csv as reader
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped

from ._base import Dataset, DatasetError
from ._own import existing_path, num_train
from .scaling import Scaling
from .splits import shuffled_split

_MANY_CLASSES = 20
"""A table may have this many classes, and more if there are at least two rows of each."""


def csv(
    path: str | Path | None = None, target: str | None = None, test: float | None = None
) -> Dataset:
    """A table with a line of names: one column is predicted from all others, which are numbers.

    If all entries of the target column are integers, or all are text, they are the names of
    classes; the classes are numbered from 0 in sorted order. Otherwise the target is for
    regression: then at least one entry is written as 3.0, not 3. Inputs and regression targets are
    standardised by mean and standard deviation of the training part, which are in the dataset's
    `input_scaling` and `target_scaling`; a column that is constant there becomes 0. The names of
    the classes are in `classes`.

    Inputs `[n, columns − 1]`; targets `[n]` of int32, or `[n, 1]` of floats.

    **Arguments:**

    - `path`: the file, in UTF-8; `~` is the user's home.
    - `target`: the name of the column to predict.
    - `test`: the fraction of the lines that is cut off as the test part, the same in every run;
        None: a fifth.

    **Raises:** `DatasetError` if the file cannot be read or is no such table, if it has no column
    of that name, if an entry is missing or no finite number, and if `test` cannot be applied.
    """
    file = existing_path(path, "csv", "a file of comma-separated values")
    names, rows = _read(file)
    target = None if target is None else str(target)  # YAML reads the name 2020 as a number
    if target not in names:
        raise DatasetError(
            f"`csv(target=...)` must be a column of `{file}`, one of "
            f"{', '.join(f'`{name}`' for name in names)}, got {target!r}: set `dataset.target`."
        )
    at = names.index(target)
    inputs = np.stack(
        [_numbers([row[k] for row in rows], name, file) for k, name in enumerate(names) if k != at],
        axis=-1,
    )
    targets, classes = _targets([row[at] for row in rows], target, file)
    split = num_train(len(rows), test, file)
    (x_train, y_train), (x_test, y_test) = shuffled_split(inputs, targets, split)
    x, y = Scaling.of(x_train), None
    if classes is None:
        y = Scaling.of(y_train)
        y_train, y_test = y.apply(y_train), y.apply(y_test)
    return Dataset(
        file.stem,
        (x.apply(x_train), y_train),
        (x.apply(x_test), y_test),
        (len(names) - 1,),
        1 if classes is None else len(classes),
        input_scaling=x,
        target_scaling=y,
        classes=classes,
    )


def _read(file: Path) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, and all lines after them as they are written."""
    try:
        with open(file, newline="", encoding="utf-8-sig") as text:
            # Blank lines do not count: files often end with one.
            lines = [[cell.strip() for cell in line] for line in reader.reader(text) if line]
    except (OSError, UnicodeDecodeError, reader.Error) as error:
        raise DatasetError(f"`csv(path=...)` cannot read `{file}`: {error}.") from error
    names, rows = (lines[0], lines[1:]) if lines else ([], [])
    if len(names) < 2 or len(set(names)) < len(names) or not rows:
        raise DatasetError(
            f"`{file}` must begin with a line of at least two different column names, separated "
            f"by commas, and have lines of values after it, got {', '.join(names) or 'nothing'} "
            f"and {len(rows)} lines."
        )
    for number, row in enumerate(rows, start=2):
        if len(row) != len(names):
            raise DatasetError(
                f"Row {number} of `{file}` must have {len(names)} entries, like the first row, "
                f"got {len(row)}."
            )
    return names, rows


def _numbers(cells: list[str], name: str, file: Path) -> Float[np.ndarray, " n"]:
    numbers = np.empty(len(cells))
    for index, cell in enumerate(cells):
        number = _number(cell)
        if number is None or not np.isfinite(number):
            raise DatasetError(
                f"`{file}` must have a finite number in every row of the column `{name}`, got "
                f"{cell or 'nothing'!r} in row {index + 2}. Encode text as numbers, and fill in "
                "missing values or remove their rows."
            )
        numbers[index] = number
    return numbers


def _targets(
    cells: list[str], name: str, file: Path
) -> tuple[Shaped[np.ndarray, "n ..."], tuple[str, ...] | None]:
    """The targets, and the names of the classes; None for regression."""
    if "" in cells:
        raise DatasetError(
            f"`{file}` must have an entry in every row of the column `{name}`, got nothing in "
            f"row {cells.index('') + 2}. Remove the rows without a target."
        )
    is_number = [_number(cell) is not None for cell in cells]
    is_text = not any(is_number)
    if not is_text and not all(is_number):
        raise DatasetError(
            f"`{file}` must have numbers in all rows of the column `{name}` or text in all, got "
            f"{cells[is_number.index(True)]!r} in row {is_number.index(True) + 2} and "
            f"{cells[is_number.index(False)]!r} in row {is_number.index(False) + 2}."
        )
    if not is_text and not all(map(_is_integer, cells)):
        return _numbers(cells, name, file)[:, None], None
    names, labels = np.unique(cells if is_text else list(map(int, cells)), return_inverse=True)
    if len(names) < 2:
        raise DatasetError(
            f"The column `{name}` of `{file}` must have at least two classes, got {cells[0]!r} in "
            "every row."
        )
    if len(names) > max(_MANY_CLASSES, len(cells) / 2):
        raise DatasetError(
            f"The column `{name}` of `{file}` has {len(names)} different entries in {len(cells)} "
            "rows, too many for classes. For regression on whole numbers, write one of them with a "
            "decimal point, such as 3.0."
        )
    return labels.astype(np.int32), tuple(map(str, names))


def _number(cell: str) -> float | None:
    if "_" in cell:  # Python reads 1_0 as 10
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def _is_integer(cell: str) -> bool:
    return cell.lstrip("+-").isdecimal()
