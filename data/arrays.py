"""Arrays of one's own, in a file of NumPy."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ._base import Dataset, DatasetError
from .splits import shuffled_split

TEST_FRACTION = 0.2
PARTS = ("train_inputs", "train_targets", "test_inputs", "test_targets")
WHOLE = ("inputs", "targets")

_Arrays = dict[str, np.ndarray]


def arrays(path: str | Path | None = None, test: float | None = None) -> Dataset:
    """The arrays of an `.npz` file, by their names.

    These are `train_inputs`, `train_targets`, `test_inputs` and `test_targets`, all with the examples
    along their first axis; or `inputs` and `targets`, of which a part is cut off to test, the same
    in every run. Targets of integers are classes from 0, or sequences of them; targets of floats
    are numbers to regress on, `[n]` or `[n, d]`. Inputs of integers stay integers, as tokens are:
    pixels are to be given as floats. Nothing is scaled.

    **Arguments:**

    - `path`: the file; `~` is the user's home.
    - `test`: the fraction of the examples that is cut off to test, where the file has no test part;
        None: a fifth.

    **Raises:** `DatasetError` if the file cannot be read, if arrays are missing, do not belong
    together, or hold what is no finite number, and where `test` cannot be honoured.
    """
    file = existing(path, "arrays", "an `.npz` file")
    found = checked(_read(file), str(file))
    for name, array in found.items():
        _check_finite(array, name, str(file))
    if WHOLE[0] in found:
        inputs, targets = (found[name] for name in WHOLE)
        train, held = shuffled_split(inputs, targets, num_train(len(inputs), test, str(file)))
    else:
        check_unused(test, str(file))
        train, held = (
            (found["train_inputs"], found["train_targets"]),
            (found["test_inputs"], found["test_targets"]),
        )
    targets = train[1], held[1]
    return Dataset(file.stem, train, held, train[0].shape[1:], output_size(*targets))


def existing(path: str | Path | None, function: str, kind: str) -> Path:
    """`path`, which the user has given to `function`, as one that exists."""
    if path is None:
        raise DatasetError(f"`{function}(path=...)` must be {kind}, got None: set `dataset.path`.")
    file = Path(path).expanduser().absolute()
    if not file.exists():
        raise DatasetError(f"`{function}(path=...)` must be {kind}, got `{file}`: no such file.")
    return file


def checked(found: _Arrays, source: str) -> _Arrays:
    """The four arrays of the parts, or the two of the whole, in the types that steps take."""
    names = PARTS if any(name in found for name in PARTS) else WHOLE
    missing = [name for name in names if name not in found]
    if missing:
        raise DatasetError(
            f"`{source}` must hold {_listed(PARTS)}, or {_listed(WHOLE)}; it lacks "
            f"{_listed(missing)}, and has {_listed(sorted(found)) or 'no arrays'}."
        )
    taken = {name: _typed(found[name], name, source) for name in names}
    for inputs, targets in zip(names[::2], names[1::2]):
        lengths = len(taken[inputs]), len(taken[targets])
        if lengths[0] != lengths[1] or not lengths[0]:
            raise DatasetError(
                f"`{inputs}` and `{targets}` of `{source}` must have the same number of examples, "
                f"at least one, got {lengths[0]} and {lengths[1]}."
            )
    if names is PARTS:
        for train, test in zip(names[:2], names[2:]):
            a, b = taken[train], taken[test]
            if a.shape[1:] != b.shape[1:] or a.dtype.kind != b.dtype.kind:
                raise DatasetError(
                    f"`{train}` and `{test}` of `{source}` must hold examples of one shape and "
                    f"kind, got {a.shape[1:]} of {a.dtype} and {b.shape[1:]} of {b.dtype}."
                )
    return taken


def num_train(n: int, test: float | None, source: str) -> int:
    """How many of `n` examples are left to train."""
    fraction = TEST_FRACTION if test is None else test
    is_number = isinstance(fraction, int | float) and not isinstance(fraction, bool)
    if not is_number or not 0 < fraction < 1:
        raise DatasetError(f"`test` must be a fraction between 0 and 1, got {fraction!r}.")
    held = round(fraction * n)
    if not 0 < held < n:
        raise DatasetError(
            f"`test={fraction:g}` of the {n} examples of `{source}` are {held}; at least one must be "
            "cut off to test and at least one left to train."
        )
    return n - held


def check_unused(test: float | None, source: str) -> None:
    """Refuse a fraction where there is a test part already."""
    if test is not None:
        raise DatasetError(f"`test` must be null, since `{source}` has a test part, got {test!r}.")


def output_size(*targets: np.ndarray) -> int:
    """The numbers per example that a model must give for targets of such arrays."""
    if targets[0].dtype.kind == "f":
        return int(np.prod(targets[0].shape[1:], dtype=np.int64))
    return 1 + max(int(part.max()) for part in targets)


def _read(file: Path) -> _Arrays:
    if not zipfile.is_zipfile(file):  # also of a folder, which is not one
        raise DatasetError(f"`arrays(path=...)` must be an `.npz` file, got `{file}`, which is not.")
    try:
        with np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files if name in (*PARTS, *WHOLE)}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DatasetError(f"Cannot read `{file}`: {str(error).rstrip('.')}.") from error


def _typed(array: Any, name: str, source: str) -> np.ndarray:
    if array.dtype.kind not in "biuf":
        raise DatasetError(f"`{name}` of `{source}` must hold numbers, got {array.dtype}.")
    if array.ndim == 0:
        raise DatasetError(f"`{name}` of `{source}` must hold examples, got a single number.")
    is_target = name.endswith("targets")
    if is_target and array.dtype.kind != "f" and array.size and array.min() < 0:
        raise DatasetError(
            f"`{name}` of `{source}` must hold classes from 0 on, or floats to regress on, got the "
            f"integer {array.min()}."
        )
    if array.dtype.kind in "iu":
        return array.astype(np.int32)
    if array.dtype.kind == "b":
        array = array.astype(np.int32 if is_target else np.float32)
    return array[:, None] if is_target and array.ndim == 1 and array.dtype.kind == "f" else array


def _check_finite(array: np.ndarray, name: str, source: str) -> None:
    count = int(np.sum(~np.isfinite(array)))
    if count:
        raise DatasetError(
            f"`{name}` of `{source}` must hold finite numbers, got {count} that are not: fill in or "
            "leave out the examples that lack a value."
        )


def _listed(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)
