"""Data that are read batch by batch, and where they stand."""

import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import jax
import numpy as np
from jaxtyping import PyTree

from . import _places
from ._base import DatasetError
from .rows import Rows

StreamPart = Literal["train", "validation", "test"]
_PARTS = get_args(StreamPart)


@runtime_checkable
class KeepsPlace(Protocol):
    """An iterator that says where it stands, and goes on from there; those of `grain` do."""

    def __next__(self) -> Any:
        """The next batch."""
        ...

    def get_state(self) -> Any:
        """Where it stands: what JSON can write, or bytes."""
        ...

    def set_state(self, state: Any) -> None:
        """Go on from there: the next batch is the one that came next."""
        ...


@dataclass(frozen=True, eq=False)
class Stream:
    """Data that are read batch by batch, in the place of a `Dataset`.

    **Arguments:**

    - `name`: what reports call it.
    - `train`: `Rows`, which a run takes in batches of its `batch_size`, in the order that arrays in
        memory have. Or `Redrawn`, of which a step takes all. Or what yields the batches of a pass
        each time that it is iterated over: a list, a PyTorch `DataLoader`, a dataset of `grain`,
        any object with `__iter__`. Or an iterator that keeps its place, see `KeepsPlace`.
    - `test`, `validation`: arrays, as those of a `Dataset`; or as `train`. None where there is no
        validation part.
    - `input_shape`, `output_size`, `reference`: as those of a `Dataset`.

    A batch has the structure of the objective's, such as `(inputs, targets)`. A list in it counts
    as a tuple, and a leaf is whatever `numpy.asarray` takes. All have the shapes of the first; the
    last of a pass may have fewer examples, and is left out of training then.

    Iterators that do not keep their place are brought back to it by iterating again from the first
    pass on, so every pass must be what it was. Where the source itself remembers something from
    pass to pass, as a shuffling `DataLoader` does its generator, every run needs a stream of its
    own.

    **Raises:** `DatasetError` for an iterator that can be read but once, such as a generator.
    """

    name: str
    train: Any
    test: Any
    input_shape: tuple[int, ...]
    output_size: int
    reference: tuple[np.ndarray, np.ndarray] | None = None
    validation: Any = None

    def __post_init__(self):
        for part in _PARTS:
            source = getattr(self, part)
            if isinstance(source, Iterator) and not isinstance(source, KeepsPlace):
                raise DatasetError(
                    f"`Stream({part}=...)` must begin anew whenever it is iterated over, got a "
                    f"`{type(source).__name__}` in the stream `{self.name}`, which can be read "
                    "once: give an object whose `__iter__` makes it."
                )
        _ = self._beginnings  # before anything is read

    @property
    def num_train(self) -> int | None:
        """The number of training examples; None where it is not known."""
        return len(self.train) if isinstance(self.train, Rows) else None

    @property
    def num_batches(self) -> int | None:
        """The batches in a pass over the training part, a short one included, if it says so."""
        try:
            length = len(self.train)
        except TypeError:
            return None
        # That is the length of a dataset of `grain` that is repeated for ever.
        return length if length < sys.maxsize else None

    def begin(self, part: StreamPart) -> Iterator[Any]:
        """An iterator over the batches of a part, at the beginning of a pass."""
        source = getattr(self, part)
        iterator = iter(source)
        if iterator is source:
            iterator.set_state(_places.read(self._beginnings[part]))
        return iterator

    def like(self, batch_size: int | None) -> PyTree[np.ndarray]:
        """A batch of the training part, for its shapes.

        **Raises:** `DatasetError` where batches are not of `batch_size` examples.
        """
        if isinstance(self.train, Rows):
            return self.train[:batch_size]
        lengths = sorted({len(leaf) for leaf in jax.tree.leaves(self.first)})
        if batch_size is not None and lengths != [batch_size]:
            raise DatasetError(
                f"`batch_size` must be the number of examples in a batch of the stream "
                f"`{self.name}`, {', '.join(map(str, lengths))}, or null, got {batch_size}."
            )
        return self.first

    @functools.cached_property
    def first(self) -> PyTree[np.ndarray]:
        """The first batch of a training part that yields batches."""
        return next(batches_of(self, "train"))

    @functools.cached_property
    def _beginnings(self) -> dict[StreamPart, Any]:
        """Where the iterators stand that are a part themselves."""
        beginnings: dict[StreamPart, Any] = {}
        for part in _PARTS:
            source = getattr(self, part)
            if isinstance(source, Iterator) and isinstance(source, KeepsPlace):
                beginnings[part] = _places.written(source.get_state(), self.name)
        return beginnings


def as_batch(given: Any) -> PyTree[np.ndarray]:
    """A batch as the objectives take it, in memory of its own.

    What yields batches may use its memory again for the next.

    **Raises:** `TypeError` for a leaf that is not made of numbers.
    """
    if isinstance(given, list | tuple):
        return tuple(as_batch(each) for each in given)
    if isinstance(given, dict):
        return {name: as_batch(each) for name, each in given.items()}
    # Tensors of PyTorch take no `copy`: as an array first.
    array = np.asarray(given)
    if array.dtype.kind not in "biufc":
        raise TypeError(f"a batch must be made of arrays of numbers, got `{type(given).__name__}`")
    return array.copy()


def batches_of(stream: Stream, part: StreamPart) -> Iterator[PyTree[np.ndarray]]:
    """One pass over a part that yields batches.

    **Raises:** `DatasetError` where the source raises, with what it says, or yields nothing.
    """
    iterator, number = stream.begin(part), 0
    while (batch := next_batch(iterator, stream.name, f"batch {number + 1}")) is not None:
        number += 1
        yield batch
    if not number:
        raise DatasetError(f"`Stream({part}=...)` yields no batch in the stream `{stream.name}`.")


def next_batch(iterator: Iterator[Any], name: str, which: str) -> PyTree[np.ndarray] | None:
    """The next batch of the stream `name`; None at the end of a pass."""
    try:
        return as_batch(next(iterator))
    except StopIteration:
        return None
    except Exception as error:  # whatever a source raises
        raise DatasetError(
            f"The stream `{name}` failed at {which}: {type(error).__name__}: {error}"
        ) from error
