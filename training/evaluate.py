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

from .chunks import Chunk, chunks, chunks_of, has_random_access
from .device import with_device_dtype
from .mesh import ON_ONE_DEVICE, Placement
from .terms import examples, terms

REFERENCE = cv.Supervised(cv.Gaussian())
"""The objective that compares the outputs of the model with the reference of a dataset."""

_Measured: TypeAlias = tuple[tuple[Float[Array, "..."], Float[Array, "..."]], ...]

CHUNK = 1024
"""Examples evaluated at a time if the objective has no `micro_batch`; this bounds the memory."""


def evaluate(
    objective: cv.AbstractObjective, model: eqx.Module, part: PyTree[np.ndarray | Array]
) -> dict[str, float]:
    """The loss and the metrics of `model`, in inference mode, over all examples of `part`.

    The mean over the examples is taken once, in float64, over one number per example. So it does
    not depend on how the examples are cut into chunks, and hardly on the precision of the model.
    The loss weights all examples equally; a metric has its own weight per example. The computation
    is traced once per shape of a chunk, not once per model.

    **Arguments:** `objective`, which must not need a key in inference mode; `model`; `part`, a
    batch of the objective's structure.

    **Returns:** `{"loss": ...}` and each term's metrics, such as `"accuracy"`; in an objective
    of several terms `"name/accuracy"`.
    """
    return _evaluate(objective, model, chunks(part, chunk_size(objective)), ON_ONE_DEVICE)


def chunk_size(objective: cv.AbstractObjective) -> int:
    """The maximum number of examples that are evaluated at a time."""
    return objective.micro_batch or CHUNK


def _evaluate(
    objective: cv.AbstractObjective,
    model: eqx.Module,
    chunks: Iterable[Chunk],
    placement: Placement,
) -> dict[str, float]:
    found = {"loss": float(objective.penalty(model))}
    values = _evaluate_examples(objective, model, chunks, placement)
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


def _evaluate_examples(
    objective: cv.AbstractObjective,
    model: eqx.Module,
    chunks: Iterable[Chunk],
    placement: Placement,
) -> dict[str, Any]:
    """`per_example` of all chunks without their padding, concatenated to NumPy arrays."""
    found: list[dict[str, Any]] = []
    in_flight: tuple[dict[str, Any], Chunk] | None = None
    for chunk in chunks:
        arrays = placement.shard(jax.tree.map(with_device_dtype, chunk.arrays))
        values = placement.whole(per_example(objective, model, arrays))
        # One chunk is computed while the next is read; more in flight would only cost memory.
        if in_flight is not None:
            found.append(_without_padding(objective, *in_flight))
        in_flight = values, chunk
    assert in_flight is not None, "every part has at least one example"
    found.append(_without_padding(objective, *in_flight))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *found)


def _without_padding(
    objective: cv.AbstractObjective, values: dict[str, Any], chunk: Chunk
) -> dict[str, Any]:
    """Wait for the values of a chunk, and drop those of its padding."""
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
    """Evaluates the models of a run; see `sources.evaluator_of`."""

    judges_by: Literal["train_loss", "validation_loss"] | None
    """The loss by which the best state of a run is chosen; None if no loss can choose it."""

    @abc.abstractmethod
    def train(self, model: eqx.Module) -> dict[str, float]:
        """Loss and metrics of the training part; empty where there are none."""

    @abc.abstractmethod
    def validation(self, model: eqx.Module) -> dict[str, float]:
        """Loss and metrics of the validation part; empty where there is none."""

    @abc.abstractmethod
    def test(self, model: eqx.Module) -> dict[str, float]:
        """Loss and metrics on the test data."""


class Evaluator(AbstractEvaluator):
    """Evaluates over the parts of a dataset or a stream.

    One chunk at a time is copied to the devices and sharded over them.
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
        """Loss and metrics over the training part; empty for a stream that may be endless."""
        dataset = self._dataset
        if (
            isinstance(dataset, Stream)
            and not has_random_access(dataset.train)
            and not dataset.num_batches
        ):
            return {}
        return self._evaluate_part("train", model)

    def validation(self, model: eqx.Module) -> dict[str, float]:
        """Loss and metrics over the validation part."""
        return {} if self._dataset.validation is None else self._evaluate_part("validation", model)

    def test(self, model: eqx.Module) -> dict[str, float]:
        """Loss and metrics over the test part; and `l2_error`, if the dataset has a reference.

        `l2_error` is √(mean ‖model(x) − u(x)‖²/c), where the reference u(x) has c components.
        """
        found = self._evaluate_part("test", model)
        if (reference := self._dataset.reference) is not None:
            most, size = chunk_size(self._objective), self._placement.size
            cut = chunks(reference, most, size)
            found["l2_error"] = _evaluate(REFERENCE, model, cut, self._placement)["l2_error"]
        return found

    def _evaluate_part(self, part: StreamPart, model: eqx.Module) -> dict[str, float]:
        most, size = chunk_size(self._objective), self._placement.size
        cut = chunks_of(self._dataset, part, most, size)
        return _evaluate(self._objective, model, cut, self._placement)
