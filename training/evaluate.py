"""Loss and metrics of a model over a whole part of a dataset."""

import abc
import math
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

import curvature as cv
from data import Dataset, Stream, StreamPart

from .chunks import Chunk, chunks, chunks_of, is_held
from .device import as_on_device
from .mesh import ON_ONE_DEVICE, Placement
from .terms import examples, terms

REFERENCE = cv.Supervised(cv.Gaussian())
"""Scores the model itself against a reference."""

_Measured: TypeAlias = tuple[tuple[Float[Array, "..."], Float[Array, "..."]], ...]

CHUNK = 1024
"""Examples evaluated at a time, where the objective has no `micro_batch`: bounds the memory."""


def evaluate(
    objective: cv.AbstractObjective, model: eqx.Module, part: PyTree[np.ndarray | Array]
) -> dict[str, float]:
    """The loss and the metrics of `model`, in inference mode, over all examples of `part`.

    The mean over the examples is taken once, in float64, over one number per example. So it does
    not depend on how the examples are cut into chunks, and hardly on the precision of the model. In
    the loss every example counts the same; in a metric, by the metric's weight. There is one trace
    per shape of a chunk, whatever the weights of the model are.

    **Arguments:** `objective`, which must not need a key in inference mode; `model`; `part`, a
    batch of the objective's structure.

    **Returns:** `{"loss": ...}` and each term's metrics, such as `"accuracy"`; in an objective
    of several terms `"name/accuracy"`.
    """
    return _evaluate(objective, model, chunks(part, chunk_size(objective)), ON_ONE_DEVICE)


def chunk_size(objective: cv.AbstractObjective) -> int:
    """The most examples that are evaluated at a time."""
    return objective.micro_batch or CHUNK


def _evaluate(
    objective: cv.AbstractObjective,
    model: eqx.Module,
    chunks: Iterable[Chunk],
    placement: Placement,
) -> dict[str, float]:
    found = {"loss": float(objective.penalty(model))}
    values = _of_all(objective, model, chunks, placement)
    for name, term in terms(objective).items():
        losses, measured = values[name]
        found["loss"] += _total(losses) / len(losses)
        for metric, (value, weight) in zip(term.likelihood.metrics(), measured, strict=True):
            key = f"{name}/{metric.name}" if name else metric.name
            total = _total(weight)
            found[key] = metric.finish(_total(value) / total) if total else math.nan
    return found


def _total(values: Float[np.ndarray, " n"]) -> float:
    return float(np.sum(values, dtype=np.float64))


def _of_all(
    objective: cv.AbstractObjective,
    model: eqx.Module,
    chunks: Iterable[Chunk],
    placement: Placement,
) -> dict[str, Any]:
    """As `per_example`, of all chunks together, as NumPy arrays; without what is repeated."""
    found: list[dict[str, Any]] = []
    in_flight: tuple[dict[str, Any], Chunk] | None = None
    for chunk in chunks:
        arrays = placement.shared_out(jax.tree.map(as_on_device, chunk.arrays))
        values = placement.whole(per_example(objective, model, arrays))
        # One chunk is computed while the next is read; more of them would only fill the memory.
        if in_flight is not None:
            found.append(_own(objective, *in_flight))
        in_flight = values, chunk
    assert in_flight is not None, "no part is empty"
    found.append(_own(objective, *in_flight))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *found)


def _own(objective: cv.AbstractObjective, values: dict[str, Any], chunk: Chunk) -> dict[str, Any]:
    """Wait for the values of a chunk, and leave out those of what is repeated."""
    lengths = {
        name: len(jax.tree.leaves(pair)[0]) for name, pair in examples(objective, chunk.own).items()
    }

    def of_term(length: int, term: Any) -> Any:
        return jax.tree.map(lambda array: np.asarray(array)[:length], term)

    return {name: of_term(length, values[name]) for name, length in lengths.items()}


@eqx.filter_jit
def per_example(
    objective: cv.AbstractObjective, model: eqx.Module, chunk: PyTree[Array]
) -> dict[str, tuple[Float[Array, " _n"], _Measured]]:
    """Per term and example: its share of the loss, and each metric's value and weight."""
    model = eqx.nn.inference_mode(model)
    pairs = examples(objective, chunk)

    def of_term(name: str, term: cv.Term) -> tuple[Float[Array, " _n"], _Measured]:
        alone = cv.Objective({name: term})

        def single(pair: tuple[PyTree[Array], Any]) -> tuple[Array, _Measured]:
            x, y = pair
            z = term.example(model, x, None)
            loss = alone.loss(model, {name: jax.tree.map(lambda array: array[None], pair)})
            return loss, tuple(
                (metric.example(z, y), metric.weight(z, y)) for metric in term.likelihood.metrics()
            )

        return jax.vmap(single)(pairs[name])

    return {name: of_term(name, term) for name, term in terms(objective).items()}


class AbstractEvaluator(abc.ABC):
    """Judges models, again and again; see `sources.evaluator_of`."""

    judges_by: Literal["train_loss", "validation_loss"] | None
    """By which loss the best state of a run is chosen; None where no loss says which is best."""

    @abc.abstractmethod
    def train(self, model: eqx.Module) -> dict[str, float]:
        """Loss and metrics in training; empty where they say nothing."""

    @abc.abstractmethod
    def validation(self, model: eqx.Module) -> dict[str, float]:
        """Loss and metrics of the validation part; empty where there is none."""

    @abc.abstractmethod
    def test(self, model: eqx.Module) -> dict[str, float]:
        """Loss and metrics in test."""


class Evaluator(AbstractEvaluator):
    """Evaluates over the parts of a dataset or a stream, which stay where they are.

    A chunk at a time is put on the devices, and shared out over them.
    """

    def __init__(
        self,
        objective: cv.AbstractObjective,
        dataset: Dataset | Stream,
        placement: Placement = ON_ONE_DEVICE,
    ):
        self._objective, self._dataset, self._placement = objective, dataset, placement
        self.judges_by = "train_loss" if dataset.validation is None else "validation_loss"

    def train(self, model: eqx.Module) -> dict[str, float]:
        """Loss and metrics over the training part; empty where that may never end."""
        dataset = self._dataset
        if isinstance(dataset, Stream) and not is_held(dataset.train) and not dataset.num_batches:
            return {}
        return self._over("train", model)

    def validation(self, model: eqx.Module) -> dict[str, float]:
        """Loss and metrics over the validation part."""
        return {} if self._dataset.validation is None else self._over("validation", model)

    def test(self, model: eqx.Module) -> dict[str, float]:
        """Loss and metrics over the test part; and `l2_error`, if the dataset has a reference.

        That is √(mean ‖model(x) − u(x)‖²/c) for the c numbers of the reference u.
        """
        found = self._over("test", model)
        if (reference := self._dataset.reference) is not None:
            most, size = chunk_size(self._objective), self._placement.size
            cut = chunks(reference, most, size)
            found["l2_error"] = _evaluate(REFERENCE, model, cut, self._placement)["l2_error"]
        return found

    def _over(self, part: StreamPart, model: eqx.Module) -> dict[str, float]:
        most, size = chunk_size(self._objective), self._placement.size
        cut = chunks_of(self._dataset, part, most, size)
        return _evaluate(self._objective, model, cut, self._placement)
