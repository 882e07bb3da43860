"""Loss and metrics of a model over a whole part of a dataset."""

import abc
import functools
import math
from typing import Any, Literal, TypeAlias

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

import curvature as cv
from data import Dataset

from .device import on_device
from .terms import examples, terms

REFERENCE = cv.Supervised(cv.Gaussian())
"""Scores the model itself against a reference."""

_Measured: TypeAlias = tuple[tuple[Float[Array, "..."], Float[Array, "..."]], ...]

CHUNK = 1024
"""Examples evaluated at a time, where the objective has no `micro_batch`: bounds the memory."""


def evaluate(
    objective: cv.AbstractObjective, model: eqx.Module, part: PyTree[Array]
) -> dict[str, float]:
    """The loss and the metrics of `model`, in inference mode, over all examples of `part`.

    The mean over the examples is taken once, in float64, over one number per example. So it does
    not depend on the size of the last chunk, and hardly on the precision of the model. In the
    loss every example counts the same; in a metric, by the metric's weight. There is one trace
    per shape of `part`, whatever the weights of the model are.

    **Arguments:** `objective`, which must not need a key in inference mode; `model`; `part`, a
    batch of the objective's structure.

    **Returns:** `{"loss": ...}` and each term's metrics, such as `"accuracy"`; in an objective
    of several terms `"name/accuracy"`.
    """
    found = {"loss": float(objective.penalty(model))}
    values = per_example(objective, model, part)
    for name, term in terms(objective).items():
        losses, measured = values[name]
        found["loss"] += _total(losses) / len(losses)
        for metric, (value, weight) in zip(term.likelihood.metrics(), measured, strict=True):
            key = f"{name}/{metric.name}" if name else metric.name
            total = _total(weight)
            found[key] = metric.finish(_total(value) / total) if total else math.nan
    return found


def _total(values: Float[Array, " n"]) -> float:
    return float(np.sum(np.asarray(values), dtype=np.float64))


@eqx.filter_jit
def per_example(
    objective: cv.AbstractObjective, model: eqx.Module, part: PyTree[Array]
) -> dict[str, tuple[Float[Array, " _n"], _Measured]]:
    """Per term and example: its share of the loss, and each metric's value and weight."""
    model = eqx.nn.inference_mode(model)
    pairs = examples(objective, part)

    def of_term(name: str, term: cv.Term) -> tuple[Float[Array, " _n"], _Measured]:
        alone = cv.Objective({name: term})

        def single(pair: tuple[PyTree[Array], Any]) -> tuple[Array, _Measured]:
            x, y = pair
            z = term.example(model, x, None)
            loss = alone.loss(model, {name: jax.tree.map(lambda array: array[None], pair)})
            return loss, tuple(
                (metric.example(z, y), metric.weight(z, y)) for metric in term.likelihood.metrics()
            )

        return jax.lax.map(single, pairs[name], batch_size=objective.micro_batch or CHUNK)

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
    """The parts of a dataset on the device, to be evaluated again and again.

    A part is put there when it is first asked for.
    """

    def __init__(self, objective: cv.AbstractObjective, dataset: Dataset):
        self._objective, self._dataset = objective, dataset
        self.judges_by = "train_loss" if dataset.validation is None else "validation_loss"

    def train(self, model: eqx.Module) -> dict[str, float]:
        """Loss and metrics over the training part."""
        return evaluate(self._objective, model, on_device(self._dataset.train))

    def validation(self, model: eqx.Module) -> dict[str, float]:
        """Loss and metrics over the validation part."""
        part = self._validation
        return {} if part is None else evaluate(self._objective, model, part)

    def test(self, model: eqx.Module) -> dict[str, float]:
        """Loss and metrics over the test part; and `l2_error`, if the dataset has a reference.

        That is √(mean ‖model(x) − u(x)‖²/c) for the c numbers of the reference u.
        """
        found = evaluate(self._objective, model, self._test)
        if self._reference is not None:
            found["l2_error"] = evaluate(REFERENCE, model, self._reference)["l2_error"]
        return found

    @functools.cached_property
    def _test(self) -> PyTree[Array]:
        return on_device(self._dataset.test)

    @functools.cached_property
    def _validation(self) -> PyTree[Array] | None:
        return on_device(self._dataset.validation)

    @functools.cached_property
    def _reference(self) -> tuple[Array, Array] | None:
        return on_device(self._dataset.reference)
