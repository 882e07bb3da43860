"""The training batches of a stream, pass after pass, each with the position after it."""

import time
from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from . import _places
from ._base import DatasetError
from .batches import batch_indices
from .redrawn import Redrawn
from .rows import Rows
from .stream import KeepsPlace, Stream, next_batch


class Drawn(NamedTuple):
    """A batch, and the position of the stream after it.

    - `batch`: the arrays.
    - `epoch`: the number of complete passes before the batch's own pass.
    - `number`: the number of the batch in its pass, from 1.
    - `is_last`: whether the pass ends with this batch.
    - `place`: plain values, from which `passes` continues; None where the number of steps
        determines the position.
    - `warning`: a sentence, or empty.
    """

    batch: PyTree[np.ndarray]
    epoch: int
    number: int
    is_last: bool
    place: dict[str, Any] | None = None
    warning: str = ""


def passes(
    stream: Stream, *, seed: int, batch_size: int | None, steps: int, place: dict[str, Any] | None
) -> Iterator[Drawn]:
    """The batches of the training part, without end, beginning after the first `steps` batches.

    **Arguments:** `seed`, `batch_size`: they give the batches of `Rows`; a source that yields
    batches has its own order. `place`: of the last batch that was taken; None at the beginning.

    **Raises:** `DatasetError` if the source raises, if a batch has other shapes than the first, or
    if a pass has no batch.
    """
    if isinstance(stream.train, Rows):
        assert batch_size is not None, "`preflight` refuses all examples at every step"
        return _shuffled_batches(stream.train, seed, batch_size, steps)
    if isinstance(stream.train, Redrawn):
        return _redrawn_batches(stream.train, steps)
    return _stream_batches(stream, place or {"epoch": 0, "batches": 0})


def _shuffled_batches(rows: Rows, seed: int, batch_size: int, steps: int) -> Iterator[Drawn]:
    size = len(rows) // batch_size
    for epoch in count(steps // size):
        order = batch_indices(seed, epoch, len(rows), batch_size)
        for number in range(max(steps - epoch * size, 0), size):
            yield Drawn(rows[order[number]], epoch, number + 1, number + 1 == size)


def _redrawn_batches(part: Redrawn, steps: int) -> Iterator[Drawn]:
    while True:
        batch, end = part.at(steps), (steps // part.every + 1) * part.every
        for step in range(steps, end):
            yield Drawn(batch, step, 1, True)
        steps = end


def _stream_batches(stream: Stream, place: dict[str, Any]) -> Iterator[Drawn]:
    epoch, number = place["epoch"], place["batches"]
    iterator, warning = _seek(stream, place)
    while True:
        for drawn in _one_pass(stream, iterator, epoch, number):
            yield drawn._replace(warning=warning)
            warning = ""
        epoch, number, iterator = epoch + 1, 0, stream.begin("train")


def _one_pass(stream: Stream, iterator: Iterator[Any], epoch: int, number: int) -> Iterator[Drawn]:
    """The rest of a pass; a batch is yielded after the next is read, when `is_last` is known."""
    held: Drawn | None = None
    short = False
    while True:
        which = f"batch {number + 1} of pass {epoch + 1}"
        batch = next_batch(iterator, stream.name, which)
        if batch is None:
            break
        if short or not _fits(batch, stream.first):
            raise DatasetError(_shape_error(stream, batch, which))
        short = _shapes(batch) != _shapes(stream.first)
        number += 1
        if short:
            continue
        if held is not None:
            yield held
        held = Drawn(batch, epoch, number, False, _place(stream, iterator, epoch, number))
    if held is None:
        raise DatasetError(
            f"The stream `{stream.name}` has no whole batch in its pass {epoch + 1}. Every "
            "iteration over it must start from the beginning."
        )
    yield held._replace(is_last=True, place={"epoch": epoch + 1, "batches": 0})


def _place(stream: Stream, iterator: Iterator[Any], epoch: int, number: int) -> dict[str, Any]:
    place: dict[str, Any] = {"epoch": epoch, "batches": number}
    if isinstance(iterator, KeepsPlace):
        place["state"] = _places.encode(iterator.get_state(), stream.name)
    return place


def _seek(stream: Stream, place: dict[str, Any]) -> tuple[Iterator[Any], str]:
    """An iterator at the position `place`, and a warning of the cost of moving it there."""
    iterator = stream.begin("train")
    if isinstance(iterator, KeepsPlace):
        if "state" in place:
            _restore(stream, iterator, place["state"])
        return iterator, ""
    began, read = time.perf_counter(), 0
    for epoch in range(place["epoch"]):
        for _ in _read_again(stream, iterator, epoch):
            read += 1
        iterator = stream.begin("train")
    for _ in zip(range(place["batches"]), _read_again(stream, iterator, place["epoch"])):
        read += 1
    if not read:
        return iterator, ""
    return iterator, (
        f"The stream `{stream.name}` was read again from its beginning to reach the saved "
        f"position: {read} batches in {time.perf_counter() - began:.1f} s. With `get_state` and "
        "`set_state`, an iterator continues at once."
    )


def _restore(stream: Stream, iterator: KeepsPlace, state: Any) -> None:
    try:
        iterator.set_state(_places.decode(state))
    except Exception as error:  # whatever an iterator raises
        raise DatasetError(
            f"The stream `{stream.name}` cannot continue from its saved position: "
            f"{type(error).__name__}: {error}"
        ) from error


def _read_again(stream: Stream, iterator: Iterator[Any], epoch: int) -> Iterator[Any]:
    for number in count(1):
        batch = next_batch(iterator, stream.name, f"batch {number} of pass {epoch + 1}")
        if batch is None:
            return
        yield batch


def _fits(batch: PyTree[np.ndarray], first: PyTree[np.ndarray]) -> bool:
    """Whether a batch is like the first, except that it may have fewer examples."""
    if jax.tree.structure(batch) != jax.tree.structure(first):
        return False
    return all(
        a.dtype == b.dtype and a.shape[1:] == b.shape[1:] and a.ndim and len(a) <= len(b)
        for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(first))
    )


def _shape_error(stream: Stream, batch: PyTree[np.ndarray], which: str) -> str:
    return (
        f"All batches of the stream `{stream.name}` must have the shapes and types of the first, "
        f"{_describe(stream.first)}, got {_describe(batch)} at {which}. Only the last batch "
        "may be shorter."
    )


def _shapes(batch: PyTree[np.ndarray]) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(batch)]


def _describe(batch: PyTree[np.ndarray]) -> str:
    shown = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", batch)
    return str(shown).replace("'", "")
