"""Cuts a part of the data into chunks of equal shape."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from data import Dataset, Rows, Stream, StreamPart, batches_of


class Chunk(NamedTuple):
    """Consecutive examples of each array, padded to a fixed size by repeating the last example.

    - `arrays`: with the padding; all chunks of a part have the same shapes.
    - `own`: the same arrays without the padding; an array may be empty.
    """

    arrays: PyTree[np.ndarray]
    own: PyTree[np.ndarray]


def chunks(part: PyTree[np.ndarray] | Rows, most: int, multiple: int = 1) -> Iterator[Chunk]:
    """All examples of `part`, in as few chunks as possible.

    Terms with different numbers of examples are cut into the same number of chunks.

    **Arguments:** `most`: the maximum number of examples of an array in a chunk; a smaller part is
    one chunk. `multiple`: the number of examples in a chunk is rounded up to a multiple of it.
    """
    held = part if isinstance(part, Rows) else jax.tree.map(np.asarray, part)
    return _cut(held, _sizes(held, most, multiple))


def chunks_of(
    dataset: Dataset | Stream, part: StreamPart, most: int, multiple: int = 1
) -> Iterator[Chunk]:
    """All examples of a part of a dataset or a stream; a short batch of a stream is padded."""
    found = getattr(dataset, part)
    if isinstance(dataset, Dataset) or has_random_access(found):
        yield from chunks(found, most, multiple)
        return
    sizes = None
    for batch in batches_of(dataset, part):
        sizes = _sizes(batch, most, multiple) if sizes is None else sizes
        yield from _cut(batch, sizes)


def head(stream: Stream, part: StreamPart, most: int) -> PyTree[np.ndarray]:
    """The first `most` examples of a part of a stream, or its first batch if it yields batches."""
    found = getattr(stream, part)
    if has_random_access(found):
        return next(chunks(found, most)).own
    return stream.first if part == "train" else next(batches_of(stream, part))


def has_random_access(part: Any) -> bool:
    """Whether a part is arrays or `Rows`; any other part yields batches."""
    return isinstance(part, Rows | tuple | dict)


def _sizes(part: PyTree[np.ndarray] | Rows, most: int, multiple: int) -> PyTree[int]:
    """The number of examples of each array in a chunk."""
    lengths = jax.tree.map(len, part)
    longest = max(jax.tree.leaves(lengths))
    count = -(-longest // most)

    def size(length: int) -> int:
        # The longest array is cut into chunks of `most`: so different parts share one program.
        own = min(length, most) if length == longest else -(-length // count)
        return -(-own // multiple) * multiple

    return jax.tree.map(size, lengths)


def _cut(part: PyTree[np.ndarray] | Rows, sizes: PyTree[int]) -> Iterator[Chunk]:
    arrays, treedef = jax.tree.flatten(part)  # `Rows` is a leaf
    each = jax.tree.leaves(sizes)
    for number in range(max(-(-len(array) // size) for array, size in zip(arrays, each))):
        pairs = [_pad(array, number * size, size) for array, size in zip(arrays, each)]
        yield Chunk(*(treedef.unflatten(found) for found in zip(*pairs)))


def _pad(array: Any, start: int, size: int) -> tuple[PyTree[np.ndarray], PyTree[np.ndarray]]:
    """`size` examples from `start` on, padded with the last one; and the same without padding."""
    rows = np.minimum(np.arange(start, start + size), len(array) - 1)
    found = array[start : start + size] if start + size <= len(array) else array[rows]
    own = max(len(array) - start, 0)
    return found, jax.tree.map(lambda leaf: leaf[:own], found)
