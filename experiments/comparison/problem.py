"""What the optimisers of a comparison train."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import equinox as eqx
import jax

from data import Dataset
from running.settings import MODEL_STREAM


class Problem(NamedTuple):
    """A model on a dataset.

    - `name`: what tables and files call it.
    - `dataset`: its training part is trained on.
    - `model`: makes a model of the dataset's `input_shape` and `output_size`, and of a `key`.
    - `batch_size`: the examples of a step.
    - `part`: the part of the dataset whose loss is compared.
    """

    name: str
    dataset: Dataset
    model: Callable[..., eqx.Module]
    batch_size: int
    part: Literal["train", "validation", "test"] = "train"

    def initial_model(self, seed: int) -> eqx.Module:
        """The weights with which `python train.py seed=...` begins."""
        key = jax.random.fold_in(jax.random.key(seed), MODEL_STREAM)
        make = eqx.filter_jit(self.model)
        return make(self.dataset.input_shape, self.dataset.output_size, key=key)
