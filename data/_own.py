"""Functions that the datasets from a user's own files share."""

from pathlib import Path

from ._base import DatasetError

TEST_FRACTION = 0.2


def existing_path(path: str | Path | None, function: str, kind: str) -> Path:
    """The absolute form of `path`, the user's argument of `function`; raises if it is missing."""
    if path is None:
        raise DatasetError(f"`{function}(path=...)` must be {kind}, got None: set `dataset.path`.")
    file = Path(path).expanduser().absolute()
    if not file.exists():
        raise DatasetError(f"`{function}(path=...)` must be {kind}, got `{file}`: no such file.")
    return file


def num_train(n: int, test: float | None, source: Path) -> int:
    """How many of `n` examples are left for training."""
    fraction = TEST_FRACTION if test is None else test
    is_number = isinstance(fraction, int | float) and not isinstance(fraction, bool)
    if not is_number or not 0 < fraction < 1:
        raise DatasetError(f"`test` must be a fraction between 0 and 1, got {fraction!r}.")
    held = round(fraction * n)
    if not 0 < held < n:
        raise DatasetError(
            f"`test={fraction:g}` of the {n} examples of `{source}` gives {held} test examples. "
            "Both the test part and the training part need at least one."
        )
    return n - held
