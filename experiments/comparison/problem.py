"""The training problems of a comparison."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import equinox as eqx
import jax

from data import Dataset
from running.settings import MODEL_STREAM


class Problem(NamedTuple):
    """A model on a dataset.

    - `name`: the name in tables and file names.
    - `dataset`: the dataset; training uses its training part.
    - `model`: makes a model from the dataset's `input_shape` and `output_size`, and a `key`.
    - `batch_size`: the number of examples of a step.
    - `part`: the part of the dataset on which the loss is compared.
    """

    name: str
    dataset: Dataset
    model: Callable[..., eqx.Module]
    batch_size: int
    part: Literal["train", "validation", "test"] = "train"

    def initial_model(self, seed: int) -> eqx.Module:
        """The model with the initial weights of `python train.py seed=...`."""
        key = jax.random.fold_in(jax.random.key(seed), MODEL_STREAM)
        make = eqx.filter_jit(self.model)
        return make(self.dataset.input_shape, self.dataset.output_size, key=key)
