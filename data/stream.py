"""Data that are read batch by batch."""

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
    """An iterator that can return and restore its position, as iterators of `grain` can."""

    def __next__(self) -> Any:
        """The next batch."""
        ...

    def get_state(self) -> Any:
        """The position: bytes, or a value that JSON can store."""
        ...

    def set_state(self, state: Any) -> None:
        """Restore a position: the next batch is the one that followed it."""
        ...


@dataclass(frozen=True, eq=False)
class Stream:
    """Data that are read batch by batch, in place of a `Dataset`.

    **Arguments:**

    - `name`: the name in reports.
    - `train`: one of four kinds.
        `Rows`: a run reads them in batches of its `batch_size`, in the same order as arrays in
        memory. `Redrawn`: every step uses all of it. An iterable that yields the batches of one
        pass each time it is iterated over: a list, a PyTorch `DataLoader`, a dataset of `grain`,
        any object with `__iter__`. Or an iterator that can restore its position, see `KeepsPlace`.
    - `test`, `validation`: arrays, as those of a `Dataset`; or as `train`. None if there is no
        validation part.
    - `input_shape`, `output_size`, `reference`: as those of a `Dataset`.

    A batch has the structure that the objective takes, such as `(inputs, targets)`. A list in it
    counts as a tuple, and a leaf is anything that `numpy.asarray` accepts. All batches have the
    shapes of the first. The last batch of a pass may have fewer examples; it is then not used in
    training.

    To resume with an iterator that cannot restore its position, all batches since the first pass
    are read again, so every pass must give the same batches as before. Some sources have a state
    that changes from pass to pass, such as the generator of a shuffling `DataLoader`. With such a
    source, every run needs its own stream.

    **Raises:** `DatasetError` for an iterator that can be read only once, such as a generator.
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
                    f"`Stream({part}=...)` must start from the beginning at every iteration, got "
                    f"a `{type(source).__name__}` in the stream `{self.name}`, which can be read "
                    "only once. Give an object whose `__iter__` creates it."
                )
        _ = self._beginnings  # before anything is read

    @property
    def num_train(self) -> int | None:
        """The number of training examples; None if it is not known."""
        return len(self.train) if isinstance(self.train, Rows) else None

    @property
    def num_batches(self) -> int | None:
        """The number of batches in a training pass, including a short one; None if not known.

        It is not known for `Rows`, of which a run takes batches of its own size.
        """
        if isinstance(self.train, Rows):
            return None
        try:
            length = len(self.train)
        except TypeError:
            return None
        # A dataset of `grain` that is repeated without end has the length `sys.maxsize`.
        return length if length < sys.maxsize else None

    def begin(self, part: StreamPart) -> Iterator[Any]:
        """An iterator over the batches of a part, at the beginning of a pass."""
        source = getattr(self, part)
        iterator = iter(source)
        if iterator is source:
            iterator.set_state(_places.decode(self._beginnings[part]))
        return iterator

    def like(self, batch_size: int | None) -> PyTree[np.ndarray]:
        """A batch of the training part, for its shapes.

        **Raises:** `DatasetError` if batches do not have `batch_size` examples.
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
        """The initial positions of those parts that are iterators themselves."""
        beginnings: dict[StreamPart, Any] = {}
        for part in _PARTS:
            source = getattr(self, part)
            if isinstance(source, Iterator) and isinstance(source, KeepsPlace):
                beginnings[part] = _places.encode(source.get_state(), self.name)
        return beginnings


def as_batch(given: Any) -> PyTree[np.ndarray]:
    """A batch as the objectives take it, copied: a source may reuse its memory for the next batch.

    **Raises:** `TypeError` for a leaf that does not consist of numbers.
    """
    if isinstance(given, list | tuple):
        return tuple(as_batch(each) for each in given)
    if isinstance(given, dict):
        return {name: as_batch(each) for name, each in given.items()}
    # PyTorch's tensors support no `copy`: convert to an array first, then copy that.
    array = np.asarray(given)
    if array.dtype.kind not in "biufc":
        raise TypeError(f"a batch must consist of arrays of numbers, got `{type(given).__name__}`")
    return array.copy()


def batches_of(stream: Stream, part: StreamPart) -> Iterator[PyTree[np.ndarray]]:
    """One pass over a part that yields batches.

    **Raises:** `DatasetError` if the source raises, with its message, or yields nothing.
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
