"""Loss and metrics of a model over a whole part of a dataset."""

import abc
import functools
from typing import Any, Literal

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

import curvature as cv
from data import Dataset

from .device import on_device
from .metrics import metrics
from .terms import examples, terms

REFERENCE = cv.Supervised(cv.Gaussian())
"""Scores the model itself against a reference."""

CHUNK = 1024
"""Examples evaluated at a time: bounds the memory, whatever the size of the part."""


def evaluate(
    objective: cv.AbstractObjective, model: eqx.Module, part: PyTree[Array]
) -> dict[str, float]:
    """The loss and the metrics of `model`, in inference mode, over all examples of `part`.

    Every example of a term counts the same: the mean is taken once, in float64, over one number
    per example, so that neither the last short chunk nor the precision of the model bends it.
    One trace per shape of `part`, whatever the weights.

    **Arguments:** `objective`, which must not need a key in inference mode; `model`; `part`, a
    batch of the objective's structure.

    **Returns:** `{"loss": ...}` and each term's metrics, such as `"accuracy"`; in an objective
    of several terms `"name/accuracy"`.
    """
    found = {"loss": float(objective.penalty(model))}
    values = per_example(objective, model, part)
    for name, term in terms(objective).items():
        losses, *others = (np.mean(np.asarray(v), dtype=np.float64) for v in values[name])
        found["loss"] += float(losses)
        for metric, mean in zip(metrics(term.likelihood), others, strict=True):
            key = f"{name}/{metric.name}" if name else metric.name
            found[key] = metric.finish(float(mean))
    return found


@eqx.filter_jit
def per_example(
    objective: cv.AbstractObjective, model: eqx.Module, part: PyTree[Array]
) -> dict[str, tuple[Float[Array, " _n"], ...]]:
    """Per term its share of the loss, then its metrics before they are finished, per example."""
    model = eqx.nn.inference_mode(model)
    pairs = examples(objective, part)

    def of_term(name: str, term: cv.Term) -> tuple[Float[Array, " _n"], ...]:
        alone = cv.Objective({name: term})

        def single(pair: tuple[PyTree[Array], Any]) -> tuple[Array, ...]:
            x, y = pair
            z = term.example(model, x, None)
            loss = alone.loss(model, {name: jax.tree.map(lambda array: array[None], pair)})
            return loss, *(metric.example(z, y) for metric in metrics(term.likelihood))

        return jax.lax.map(single, pairs[name], batch_size=CHUNK)

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
