import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.tree_util as jtu
import numpy as np

from running.settings import is_int

from ._base import AbstractRecorder, Arrays

FOLDER = "tensorboard"


class TensorBoard(AbstractRecorder):
    """Event files for TensorBoard, in `FOLDER/tensorboard`.

    Scalars of every step; histograms of weights, gradients and updates; the configuration as
    hyper-parameters, with the numbers of the summary.

    **Arguments:** `histograms_every`: after how many steps histograms are written; None: never.

    **Raises:** `ValueError` where that is not a positive integer.
    """

    def __init__(self, histograms_every: int | None = 100):
        if histograms_every is not None and (not is_int(histograms_every) or histograms_every < 1):
            raise ValueError(
                "`TensorBoard(histograms_every=...)` must be a positive integer or null, got "
                f"{histograms_every!r}."
            )
        # Imported here, because it takes long to import, and few runs need it.
        from tensorboardX import SummaryWriter

        self.arrays_every, self._make_writer = histograms_every, SummaryWriter

    def begin(self, folder: Path, config: Mapping[str, Any], steps: int) -> None:
        self._config = config
        first = steps + 1
        # TensorBoard ignores what earlier files contain from this step on. The suffix: a file with
        # the name of an earlier one, made in the same second, would replace it.
        self._writer = self._make_writer(
            str(folder / FOLDER), purge_step=first, filename_suffix=f".{first}"
        )

    def record(self, record: Mapping[str, Any]) -> None:
        for name, value in _numbers(record).items():
            if name != "step":
                self._writer.add_scalar(name, value, record["step"])
        self._writer.flush()

    def arrays(self, step: int, arrays: Arrays) -> None:
        for kind, by_path in arrays._asdict().items():
            for path, values in by_path.items():
                if np.isfinite(values).all():  # a histogram has no bin for NaN
                    self._writer.add_histogram(f"{kind}/{path}", values, step)

    def end(self, summary: Mapping[str, Any]) -> None:
        hyperparameters = {
            name: value if isinstance(value, str | int | float) else str(value)
            for name, value in _leaves(self._config, separator=".")
        }
        numbers = {f"summary/{name}": value for name, value in _numbers(summary).items()}
        self._writer.add_hparams(hyperparameters, numbers, name="hyperparameters")
        self._writer.close()


def _numbers(entries: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers and the truth values of a nested mapping, by their paths."""
    return {
        name: float(value)
        for name, value in _leaves(entries, separator="/")
        if isinstance(value, int | float) and math.isfinite(value)
    }


def _leaves(entries: Mapping[str, Any], separator: str) -> list[tuple[str, Any]]:
    """All values of a nested mapping that are no mappings, lists and None included, by path."""
    found = jtu.tree_leaves_with_path(entries, is_leaf=lambda value: not isinstance(value, Mapping))
    return [(jtu.keystr(path, simple=True, separator=separator), value) for path, value in found]
