"""Training on less than the whole training part."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ._base import Dataset, DatasetError


def held_out(dataset: Dataset, fraction: float) -> Dataset:
    """`dataset` with a random part of its training part as its validation part.

    The examples are drawn by `numpy.random.RandomState(0)`, of each term by itself: the part is the
    same in every run that is compared. It has the nearest whole number of them.

    **Raises:** `DatasetError` where nothing would be held out, or nothing left.
    """

    def cut(term: PyTree[np.ndarray]) -> tuple[PyTree[np.ndarray], PyTree[np.ndarray]]:
        n = len(jax.tree.leaves(term)[0])
        held = round(fraction * n)
        if not 0 < held < n:
            raise DatasetError(
                f"`validation={fraction:g}` of the {n} training examples of `{dataset.name}` are "
                f"{held}; at least one must be held out and at least one left."
            )
        order = np.random.RandomState(0).permutation(n)
        # In their own order: neighbours in a file stay neighbours.
        return _rows(term, np.sort(order[held:])), _rows(term, np.sort(order[:held]))

    cuts = _by_term(cut, dataset.train)
    train, validation = ([c[part] for c in cuts] for part in (0, 1))
    return dataclasses.replace(
        dataset, train=_joined(train, dataset.train), validation=_joined(validation, dataset.train)
    )


def first_of(dataset: Dataset, count: int) -> Dataset:
    """`dataset` with the first `count` examples of its training part alone.

    **Raises:** `DatasetError` where there are fewer, or where terms have different numbers of them.
    """
    if dataset.num_train is None:
        raise DatasetError(
            f"`train_examples` must be null for the dataset `{dataset.name}`, whose terms have "
            f"different numbers of training examples, got {count}."
        )
    if count > dataset.num_train:
        raise DatasetError(
            f"`train_examples` must be at most the number of training examples, "
            f"{dataset.num_train}, got {count}."
        )
    return dataclasses.replace(dataset, train=jax.tree.map(lambda a: a[:count], dataset.train))


def _rows(term: PyTree[np.ndarray], rows: np.ndarray) -> PyTree[np.ndarray]:
    return jax.tree.map(lambda array: array[rows], term)


def _by_term(function: Callable[[PyTree[np.ndarray]], Any], part: PyTree[np.ndarray]) -> list[Any]:
    return [function(term) for term in (part.values() if isinstance(part, dict) else [part])]


def _joined(terms: list[PyTree[np.ndarray]], like: PyTree[np.ndarray]) -> PyTree[np.ndarray]:
    return dict(zip(like, terms)) if isinstance(like, dict) else terms[0]
