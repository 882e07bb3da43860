"""The characters of a text, each predicted from the characters before it."""

import functools
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from ._base import Dataset, DatasetError
from ._sklearn import sklearn_datasets

_Windows = tuple[Int32[np.ndarray, "n context"], Int32[np.ndarray, "n context"]]


def text(path: str | Path | None = None, context: int = 64) -> Dataset:
    """Windows of `context` characters, and for each character the one that follows it.

    The characters are numbered in the order of their code points, from 0; `output_size` is the
    number of different characters in the whole text. The first 90 % of the characters are the
    training part and the rest the test part, the usual split of tinyshakespeare. In each part a
    window starts every `context` characters, so windows do not overlap; the characters after the
    last whole window are left out.

    Inputs int32 `[n, context]`; targets int32 `[n, context]`, the inputs shifted by one character.

    **Arguments:**

    - `path`: a text file in UTF-8, relative to the current folder; `~` is the user's home. None:
        the descriptions of datasets that scikit-learn bundles, about 43,000 characters, which need
        no network.
    - `context`: how many characters a window has.

    **Raises:** `DatasetError` if the file cannot be read or is not UTF-8, if `context` is no
    positive integer, or if a part has no whole window.
    """
    if isinstance(context, bool) or not isinstance(context, int) or context < 1:
        raise DatasetError(f"`text(context=...)` must be a positive integer, got {context!r}.")
    return _windows_of(None if path is None else Path(path).expanduser().absolute(), context)


@functools.cache
def _windows_of(path: Path | None, context: int) -> Dataset:
    characters = _bundled_text() if path is None else _read(path)
    # In UTF-32 every character is one 32-bit integer, its code point.
    codes = np.frombuffer(characters.encode("utf-32-le"), np.uint32)
    vocabulary, numbers = np.unique(codes, return_inverse=True)
    split = len(numbers) * 9 // 10
    train, test = numbers[:split], numbers[split:]
    if min(len(train), len(test)) <= context:
        raise DatasetError(
            f"`text(context={context})` needs at least {context + 1} characters in each part, "
            f"got {len(train)} to train and {len(test)} to test. Use a longer text or a smaller "
            "`context`."
        )
    return Dataset(
        "text",
        _windows(train, context),
        _windows(test, context),
        input_shape=(context,),
        output_size=len(vocabulary),
    )


def _windows(numbers: np.ndarray, context: int) -> _Windows:
    used = (len(numbers) - 1) // context * context  # one more character is needed: the last target
    inputs, targets = numbers[:used], numbers[1 : used + 1]
    return (
        inputs.reshape(-1, context).astype(np.int32),
        targets.reshape(-1, context).astype(np.int32),
    )


def _bundled_text() -> str:
    return "".join(_read(file) for file in sorted((sklearn_datasets() / "descr").glob("*.rst")))


def _read(path: Path) -> str:
    try:
        # Read as bytes: reading as text would convert the line endings.
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise DatasetError(
            f"`text(path=...)` must be a file that can be read, got `{path}`: {error.strerror}."
        ) from error
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"`text(path=...)` must be a text in UTF-8, got `{path}`, whose byte {error.start} "
            "is not UTF-8. Convert the file to UTF-8."
        ) from error
