"""Training on a subset of the training part."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import PyTree

from ._base import Dataset, DatasetError
from .rows import Rows
from .stream import Stream

_Data = TypeVar("_Data", bound=Dataset | Stream)


def held_out(dataset: _Data, fraction: float) -> _Data:
    """`dataset` with a random subset of its training part as its validation part.

    The examples are drawn by `numpy.random.RandomState(0)`, separately for each term, so the
    validation part is the same in all runs. Their number is `fraction` of all, rounded.

    **Raises:** `DatasetError` if no example would be held out, or none would be left; and for a
    stream that yields batches.
    """
    _check_random_access(
        dataset, "validation", "Give the stream a validation part, `Stream(validation=...)`."
    )

    def cut(term: PyTree[np.ndarray]) -> tuple[PyTree[np.ndarray], PyTree[np.ndarray]]:
        n = len(jax.tree.leaves(term)[0])  # of an array, or of `Rows`
        held = round(fraction * n)
        if not 0 < held < n:
            raise DatasetError(
                f"`validation={fraction:g}` of the {n} training examples of `{dataset.name}` "
                f"gives {held} validation examples. Both the validation part and the training "
                "part need at least one."
            )
        order = np.random.RandomState(0).permutation(n)
        # Sorted, so that examples that are adjacent in a file stay adjacent.
        return _rows(term, np.sort(order[held:])), _rows(term, np.sort(order[:held]))

    cuts = _by_term(cut, dataset.train)
    train, validation = ([c[part] for c in cuts] for part in (0, 1))
    return dataclasses.replace(
        dataset, train=_joined(train, dataset.train), validation=_joined(validation, dataset.train)
    )


def first_of(dataset: _Data, count: int) -> _Data:
    """`dataset` with only the first `count` examples of its training part.

    **Raises:** `DatasetError` if there are fewer, if their number differs between terms, or for a
    stream that yields batches.
    """
    _check_random_access(dataset, "train_examples", "Limit the examples where the stream is made.")
    if dataset.num_train is None:
        raise DatasetError(
            f"`train_examples` must be null for the dataset `{dataset.name}`, got {count}. Its "
            "terms have different numbers of training examples."
        )
    if count > dataset.num_train:
        raise DatasetError(
            f"`train_examples` must be at most the number of training examples, "
            f"{dataset.num_train}, got {count}."
        )
    return dataclasses.replace(dataset, train=_rows(dataset.train, slice(count)))


def _check_random_access(dataset: Dataset | Stream, setting: str, instead: str) -> None:
    if isinstance(dataset, Stream) and not isinstance(dataset.train, Rows):
        raise DatasetError(
            f"`{setting}` cannot select examples of the stream `{dataset.name}`, because they "
            f"come in batches. {instead}"
        )


def _rows(term: PyTree[np.ndarray], rows: np.ndarray | slice) -> PyTree[np.ndarray]:
    def taken(array: np.ndarray | Rows) -> np.ndarray | Rows:
        return array.subset(rows) if isinstance(array, Rows) else array[rows]

    return jax.tree.map(taken, term)


def _by_term(function: Callable[[PyTree[np.ndarray]], Any], part: PyTree[np.ndarray]) -> list[Any]:
    return [function(term) for term in (part.values() if isinstance(part, dict) else [part])]


def _joined(terms: list[PyTree[np.ndarray]], like: PyTree[np.ndarray]) -> PyTree[np.ndarray]:
    return dict(zip(like, terms)) if isinstance(like, dict) else terms[0]
