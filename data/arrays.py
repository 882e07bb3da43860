"""The user's own arrays, in a file of NumPy or a folder of files."""

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ._base import Dataset, DatasetError
from ._own import existing_path, num_train
from .rows import Rows
from .splits import shuffled_numbers, shuffled_split
from .stream import Stream

PARTS = ("train_inputs", "train_targets", "test_inputs", "test_targets")
WHOLE = ("inputs", "targets")

_KIND = "an `.npz` file or a folder of `.npy` files"
_Arrays = dict[str, np.ndarray]


def arrays(path: str | Path | None = None, test: float | None = None) -> Dataset | Stream:
    """The arrays of an `.npz` file, or of a folder of `.npy` files, by their names.

    The names are `train_inputs`, `train_targets`, `test_inputs` and `test_targets`. The first axis
    of all arrays is the examples. Alternatively the names are `inputs` and `targets`; then the same
    test part is cut off in every run. Integer targets are classes from 0, or sequences of classes.
    Float targets are for regression, `[n]` or `[n, d]`. Integer inputs stay integers, as tokens
    are, so give pixels as floats. Nothing is scaled.

    The arrays of a folder (`train_inputs.npy`, ...) are memory-mapped and read batch by batch. The
    batches are the same as from one file with the same arrays. Their inputs are not checked for NaN
    and infinity.

    **Arguments:**

    - `path`: the file or the folder; `~` is the user's home.
    - `test`: the fraction of the examples that is cut off as the test part, if the file has none;
        None: a fifth.

    **Raises:** `DatasetError` if a file cannot be read, if arrays are missing, do not fit together,
    or have entries that are no finite numbers, and if `test` cannot be applied.
    """
    place = existing_path(path, "arrays", _KIND)
    found = _check(_map_npy(place) if place.is_dir() else _load_npz(place), place)
    if place.is_dir():
        return _read_by_batch(found, test, place)
    for name, array in found.items():
        _check_finite(array, name, place)
    found = {name: array.astype(_type(array, name), copy=False) for name, array in found.items()}
    if WHOLE[0] in found:
        inputs, targets = (found[name] for name in WHOLE)
        train, held = shuffled_split(inputs, targets, num_train(len(inputs), test, place))
    else:
        _check_unused(test, place)
        a, b, c, d = (found[name] for name in PARTS)
        train, held = (a, b), (c, d)
    return Dataset(place.stem, train, held, train[0].shape[1:], _output_size(found, place))


def _read_by_batch(found: _Arrays, test: float | None, folder: Path) -> Stream:
    def rows(inputs: str, targets: str) -> Rows:
        pair = found[inputs], found[targets]
        return Rows(pair, (_type(pair[0], inputs), _type(pair[1], targets)))

    if WHOLE[0] in found:
        whole = rows(*WHOLE)
        numbers = shuffled_numbers(len(whole), num_train(len(whole), test, folder))
        train, held = (whole.subset(each) for each in numbers)
    else:
        _check_unused(test, folder)
        train, held = rows(*PARTS[:2]), rows(*PARTS[2:])
    return Stream(folder.name, train, held, train.arrays[0].shape[1:], _output_size(found, folder))


def _load_npz(file: Path) -> _Arrays:
    if not zipfile.is_zipfile(file):
        raise DatasetError(f"`arrays(path=...)` must be {_KIND}, got `{file}`, which is neither.")
    try:
        with np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files if name in (*PARTS, *WHOLE)}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise _read_error(file, error) from error


def _map_npy(folder: Path) -> _Arrays:
    found = {}
    for name in (*PARTS, *WHOLE):
        file = folder / f"{name}.npy"
        try:
            if file.exists():
                found[name] = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise _read_error(file, error) from error
    return found


def _read_error(file: Path, error: Exception) -> DatasetError:
    return DatasetError(f"Cannot read `{file}`: {str(error).rstrip('.')}.")


def _check(found: _Arrays, source: Path) -> _Arrays:
    """The four arrays of the parts, or the two of the whole; float targets `[n]` as `[n, 1]`."""
    names = PARTS if any(name in found for name in PARTS) else WHOLE
    missing = [name for name in names if name not in found]
    if missing:
        raise DatasetError(
            f"`{source}` must hold {_join_names(PARTS)}, or {_join_names(WHOLE)}. It has "
            f"{_join_names(sorted(found)) or 'none of them'} and lacks {_join_names(missing)}."
        )
    for name in names:
        _check_numbers(found[name], name, source)
    taken = {name: _as_column(found[name], name) for name in names}
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
            if a.shape[1:] != b.shape[1:] or _type(a, train).kind != _type(b, test).kind:
                raise DatasetError(
                    f"`{train}` and `{test}` of `{source}` must hold examples of one shape and "
                    f"kind, got {a.shape[1:]} of {a.dtype} and {b.shape[1:]} of {b.dtype}."
                )
    return taken


def _check_numbers(array: np.ndarray, name: str, source: Path) -> None:
    if array.dtype.kind not in "biuf":
        raise DatasetError(f"`{name}` of `{source}` must hold numbers, got {array.dtype}.")
    if array.ndim == 0:
        raise DatasetError(f"`{name}` of `{source}` must hold examples, got a single number.")
    if _is_targets(name) and array.dtype.kind == "i" and array.size and array.min() < 0:
        raise DatasetError(
            f"`{name}` of `{source}` must hold class labels ≥ 0, or floats for regression, got "
            f"the integer {array.min()}."
        )


def _check_finite(array: np.ndarray, name: str, source: Path) -> None:
    count = int(np.sum(~np.isfinite(array)))
    if count:
        raise DatasetError(
            f"`{name}` of `{source}` must hold finite numbers, got {count} that are not. Fill in "
            "the missing values, or remove these examples."
        )


def _check_unused(test: float | None, source: Path) -> None:
    if test is not None:
        raise DatasetError(f"`test` must be null, since `{source}` has a test part, got {test!r}.")


def _is_targets(name: str) -> bool:
    return name.endswith("targets")


def _as_column(array: np.ndarray, name: str) -> np.ndarray:
    is_column = _is_targets(name) and array.ndim == 1 and array.dtype.kind == "f"
    return array[:, None] if is_column else array


def _type(array: np.ndarray, name: str) -> np.dtype:
    """The type in which an array goes into a batch."""
    if array.dtype.kind == "f":
        return array.dtype
    is_yes_or_no = array.dtype.kind == "b" and not _is_targets(name)
    return np.dtype(np.float32 if is_yes_or_no else np.int32)


def _output_size(found: _Arrays, source: Path) -> int:
    """The number of outputs that a model must have for these targets."""
    targets = {name: array for name, array in found.items() if _is_targets(name)}
    first, *_ = targets.values()
    if first.dtype.kind == "f":
        return int(np.prod(first.shape[1:], dtype=np.int64))
    least = min(int(part.min()) for part in targets.values())
    if first.ndim == 1 and least > 0:
        raise DatasetError(
            f"{_join_names(targets)} of `{source}` must hold classes numbered from 0, got labels "
            f"from {least}. Subtract {least}."
        )
    return 1 + max(int(part.max()) for part in targets.values())


def _join_names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
