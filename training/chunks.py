"""A part of the data, a chunk at a time, all chunks of one shape."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from data import Dataset, Rows, Stream, StreamPart, batches_of


class Chunk(NamedTuple):
    """Some examples of each array, the last repeated where there are too few.

    - `arrays`: all chunks of a part have the same shapes.
    - `own`: the same arrays without what is repeated, empty perhaps.
    """

    arrays: PyTree[np.ndarray]
    own: PyTree[np.ndarray]


def chunks(part: PyTree[np.ndarray] | Rows, most: int, multiple: int = 1) -> Iterator[Chunk]:
    """All examples of `part`, in as few chunks as there can be.

    Terms of different numbers of examples come side by side, each in as many chunks.

    **Arguments:** `most`: the most examples of an array in a chunk; a smaller part is one chunk.
    `multiple`: of which the number of examples in a chunk is one.
    """
    held = part if isinstance(part, Rows) else jax.tree.map(np.asarray, part)
    return _cut(held, _sizes(held, most, multiple))


def chunks_of(
    dataset: Dataset | Stream, part: StreamPart, most: int, multiple: int = 1
) -> Iterator[Chunk]:
    """All examples of a part of a dataset, or of a stream, of which a short batch is filled up."""
    found = getattr(dataset, part)
    if isinstance(dataset, Dataset) or is_held(found):
        yield from chunks(found, most, multiple)
        return
    sizes = None
    for batch in batches_of(dataset, part):
        sizes = _sizes(batch, most, multiple) if sizes is None else sizes
        yield from _cut(batch, sizes)


def head(stream: Stream, part: StreamPart, most: int) -> PyTree[np.ndarray]:
    """The first examples of a part of a stream: `most`, or those of its first batch."""
    found = getattr(stream, part)
    if is_held(found):
        return next(chunks(found, most)).own
    return stream.first if part == "train" else next(batches_of(stream, part))


def is_held(part: Any) -> bool:
    """Whether a part is arrays or `Rows`; what is not yields batches."""
    return isinstance(part, Rows | tuple | dict)


def _sizes(part: PyTree[np.ndarray] | Rows, most: int, multiple: int) -> PyTree[int]:
    """The examples of each array in a chunk."""
    lengths = jax.tree.map(len, part)
    longest = max(jax.tree.leaves(lengths))
    count = -(-longest // most)

    def size(length: int) -> int:
        # The longest in chunks of `most`, so that parts share the program of that shape.
        own = min(length, most) if length == longest else -(-length // count)
        return -(-own // multiple) * multiple

    return jax.tree.map(size, lengths)


def _cut(part: PyTree[np.ndarray] | Rows, sizes: PyTree[int]) -> Iterator[Chunk]:
    arrays, treedef = jax.tree.flatten(part)  # `Rows` are one of these
    each = jax.tree.leaves(sizes)
    for number in range(max(-(-len(array) // size) for array, size in zip(arrays, each))):
        pairs = [_filled(array, number * size, size) for array, size in zip(arrays, each)]
        yield Chunk(*(treedef.unflatten(found) for found in zip(*pairs)))


def _filled(array: Any, start: int, size: int) -> tuple[PyTree[np.ndarray], PyTree[np.ndarray]]:
    """`size` examples from `start` on, the last repeated; and those that are not repeated."""
    rows = np.minimum(np.arange(start, start + size), len(array) - 1)
    found = array[start : start + size] if start + size <= len(array) else array[rows]
    own = max(len(array) - start, 0)
    return found, jax.tree.map(lambda leaf: leaf[:own], found)
