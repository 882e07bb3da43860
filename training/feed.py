"""The input of each step of a run, and the position in the data after the step."""

import abc
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from data import Dataset, Drawn, Stream, batch_indices, passes
from environments import OnPolicy

from . import hosts
from ._base import Run, Tally
from .device import with_device_dtype
from .mesh import Placement
from .prefetch import AHEAD, Prefetched
from .sources import Source, as_given, batch_shapes, gather, source

T = TypeVar("T")
IN_FLIGHT = AHEAD + 3
"""Batches of a stream on the device at once: `AHEAD` in the queue, 2 in steps, 1 being copied."""


class Given(NamedTuple):
    """The input of a step.

    - `arrays`: the batch. If the data are on the device: the indices `[batches, batch_size]` of all
        batches of the epoch, from which the step takes its own row. None: the step uses all data,
        or generates its own.
    - `epochs`: passes over the training part after the step.
    - `epoch_steps`: if an epoch ends with the step, the number of its steps; else None.
    - `place`: the position in the data after the step, as plain values; None where the number of
        steps determines it.
    """

    arrays: PyTree[Array]
    epochs: float
    epoch_steps: int | None = None
    place: dict[str, Any] | None = None


class AbstractFeed(abc.ABC):
    """Provides the inputs of the steps, one after another; a context manager."""

    shapes: PyTree[jax.ShapeDtypeStruct]
    """The shapes of `Given.arrays`, the same for all steps, with their sharding."""

    @abc.abstractmethod
    def next(self, step: int) -> Given | None:
        """The input of step number `step`, counted from 0; None if the run ends before it.

        **Raises:** `data.DatasetError` if the source of a stream fails.
        """

    def __enter__(self) -> "AbstractFeed":
        return self

    def __exit__(self, *exception: object) -> None:  # noqa: B027 (nothing is to be ended)
        pass


def feed_of(
    run: Run,
    placement: Placement,
    tally: Tally,
    is_stopped: Callable[[], bool],
    warn: Callable[[str], None],
) -> AbstractFeed:
    """The feed of a run, beginning after the steps in `tally`.

    **Arguments:** `is_stopped`: asked during the wait for a batch, true ends the wait; `warn`: gets
    a sentence on what resuming has cost.
    """
    if isinstance(run.dataset, Stream):
        return Streamed(run, run.dataset, placement, tally, is_stopped, warn)
    if isinstance(run.dataset, Dataset) and loads_batches(run):
        return Shares(run, run.dataset, placement)
    return Resident(run, placement)


def source_of(run: Run, placement: Placement) -> Source:
    """The source of a run, with its data placed as the steps need them."""
    if loads_batches(run):
        return Source((), as_given)
    if isinstance(run.dataset, Dataset) and has_shares(run, placement):
        return Source(_shares(run.dataset.train, placement), gather)
    data, draw = source(run.dataset)
    return Source(placement.replicated(data), draw)


def loads_batches(run: Run) -> bool:
    """Whether each of several processes loads its own examples of every batch from the host."""
    is_cut = run.settings.batch_size is not None
    return hosts.count() > 1 and isinstance(run.dataset, Dataset) and is_cut


def has_shares(run: Run, placement: Placement) -> bool:
    """Whether each device has a share of the training part of a `Dataset` in its memory.

    This is so if a step uses all examples, and with `fsdp`. With `fsdp`, a step gets the examples
    of a batch from all devices, by a sum over the devices of the size of the batch.
    """
    if placement.mesh is None or loads_batches(run):
        return False
    return run.settings.batch_size is None or placement.sharding == "fsdp"


def _shares(part: PyTree[np.ndarray], placement: Placement) -> PyTree[Array]:
    """A part in even shares; each process loads only those of its devices.

    If the devices do not divide the number of examples, the last share has the first examples
    again. No batch has them: if a step uses all examples, the devices divide their number.
    """

    def place(array: np.ndarray) -> Array:
        rows = np.arange(len(array) + -len(array) % placement.size) % len(array)
        shape = len(rows), *array.shape[1:]
        return placement.load(shape, lambda own: with_device_dtype(array[rows[own]]))

    return jax.tree.map(place, part)


def _order(run: Run, place: Callable[[np.ndarray], T]) -> Callable[[int], T]:
    """The function from an epoch to the indices of its batches, which `place` puts where they go.

    The indices of the latest epoch are kept.
    """
    seed, n, size = run.settings.seed, run.dataset.num_train, run.settings.batch_size
    assert n is not None
    assert size is not None
    return functools.lru_cache(maxsize=1)(lambda epoch: place(batch_indices(seed, epoch, n, size)))


class Resident(AbstractFeed):
    """For data on the device: sends the indices of all batches of an epoch, once per epoch."""

    def __init__(self, run: Run, placement: Placement):
        self._run, self._order, self.shapes = run, None, None
        if run.settings.batch_size is not None and not isinstance(run.dataset, OnPolicy):
            shape = run.steps_per_epoch, run.settings.batch_size
            self.shapes = placement.replicated_shape(jax.ShapeDtypeStruct(shape, jnp.int32))
            self._order = _order(
                run, lambda order: placement.replicated(jnp.asarray(order, jnp.int32))
            )

    def next(self, step: int) -> Given:
        size = self._run.steps_per_epoch
        assert size is not None, "all but streams know it"
        ends = (step + 1) % size == 0
        batches = None if self._order is None else self._order(step // size)
        return Given(batches, (step + 1) / size, size if ends else None)


class Shares(AbstractFeed):
    """For several processes, with the data on the hosts: each loads its own examples of a batch."""

    def __init__(self, run: Run, dataset: Dataset, placement: Placement):
        self._run, self._train, self._placement = run, dataset.train, placement
        self._order = _order(run, lambda order: order)
        shapes = batch_shapes(dataset, run.model, run.settings.batch_size)
        self.shapes = placement.sharded_shapes(shapes)

    def next(self, step: int) -> Given:
        size = self._run.steps_per_epoch
        assert size is not None, "all but streams know it"
        rows = self._order(step // size)[step % size]

        def loaded(array: np.ndarray) -> Array:
            shape = len(rows), *array.shape[1:]
            return self._placement.load(shape, lambda own: with_device_dtype(array[rows[own]]))

        ends = (step + 1) % size == 0
        batch = jax.tree.map(loaded, self._train)
        return Given(batch, (step + 1) / size, size if ends else None)


class Streamed(AbstractFeed):
    """For a stream: reads batches and copies them to the devices ahead of time.

    The `place` of a batch is the position directly after this batch, although the stream has been
    read further.
    """

    def __init__(
        self,
        run: Run,
        stream: Stream,
        placement: Placement,
        tally: Tally,
        is_stopped: Callable[[], bool],
        warn: Callable[[str], None],
    ):
        self._run, self._placement, self._is_stopped, self._warn = run, placement, is_stopped, warn
        shapes = batch_shapes(stream, run.model, run.settings.batch_size)
        self.shapes = placement.sharded_shapes(shapes)
        settings = run.settings
        drawn = passes(
            stream,
            seed=settings.seed,
            batch_size=settings.batch_size,
            steps=tally.steps,
            place=tally.place,
        )
        self._ahead = Prefetched(map(self._on_device, drawn))

    def next(self, step: int) -> Given | None:
        del step
        drawn = self._ahead.next(self._is_stopped)
        if drawn is None or drawn.epoch >= self._run.settings.epochs:
            return None
        if drawn.warning:
            self._warn(drawn.warning)
        ends = drawn.number if drawn.is_last else None
        return Given(drawn.batch, self._epochs(drawn), ends, drawn.place)

    def __enter__(self) -> "Streamed":
        self._ahead.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ahead.__exit__(*exception)

    def _on_device(self, drawn: Drawn) -> Drawn:
        def typed(array: np.ndarray, like: jax.ShapeDtypeStruct) -> np.ndarray:
            return array.astype(like.dtype, copy=False)

        batch = jax.tree.map(typed, drawn.batch, self.shapes)
        return drawn._replace(batch=self._placement.shard(batch))

    def _epochs(self, drawn: Drawn) -> float:
        """The passes after a batch; only complete ones count if their length is not known."""
        size = self._run.steps_per_epoch
        if drawn.is_last or size is None:
            return float(drawn.epoch + drawn.is_last)
        return (drawn.epoch * size + drawn.number) / size
