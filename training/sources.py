"""The sources of batches: a dataset, a stream, or the rollouts of the model itself."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, PyTree, Scalar

import curvature as cv
from data import Dataset, Stream
from environments import OnPolicy

from .device import on_device, shapes_on_device
from .evaluate import AbstractEvaluator, Evaluator
from .mesh import Placement

ROLLOUT_STREAM = 2**32 - 1
"""Folded into a step's key for its rollout: differs from all keys that an optimiser derives."""

Numbers = dict[str, Scalar]
Draw = Callable[..., tuple[PyTree[Array], Numbers]]


class Source(NamedTuple):
    """How a step gets its batch, inside the compiled program.

    - `data`: arrays on the device.
    - `draw`: `(data, given, model, *, step, key) -> (batch, numbers)`; `given` is `arrays` of
        `feed.Given`; `step` and `key` are those of the step; `numbers` are recorded.
    """

    data: PyTree[Array]
    draw: Draw


def gather(
    data: PyTree[Array],
    given: Int[Array, "batches batch_size"] | None,
    model: PyTree,
    *,
    step: Int[Array, ""],
    key: PRNGKeyArray,
) -> tuple[PyTree[Array], Numbers]:
    """The batch of a step: the examples in its row of `given`; all of `data` if that is None."""
    del model, key
    if given is None:
        return data, {}
    row = given[step % given.shape[0]]
    # `clip`, because the indices are in range: the default mode would also mask the result.
    return jax.tree.map(lambda array: jnp.take(array, row, axis=0, mode="clip"), data), {}


def as_given(
    data: Any, given: PyTree[Array], model: Any, *, step: Any, key: Any
) -> tuple[PyTree[Array], Numbers]:
    """The batch itself: the step gets it as its input."""
    del data, model, step, key
    return given, {}


@functools.singledispatch
def source(dataset: Any) -> Source:
    """The source of a run on `dataset`."""
    raise TypeError(
        f"`Run(dataset=...)` must be a `Dataset`, a `Stream` or an `OnPolicy`, got {dataset!r}."
    )


@source.register
def _(dataset: Dataset) -> Source:
    return Source(on_device(dataset.train), gather)


@source.register
def _(dataset: Stream) -> Source:
    del dataset
    return Source((), as_given)


@source.register
def _(dataset: OnPolicy) -> Source:
    def draw(data: Any, given: Any, model: Any, *, step: Any, key: Any) -> tuple[PyTree, Numbers]:
        del data, given
        return dataset.batch(model, step=step, key=jax.random.fold_in(key, ROLLOUT_STREAM))

    return Source((), draw)


@functools.singledispatch
def batch_shapes(
    dataset: Any, model: eqx.Module, batch_size: int | None
) -> PyTree[jax.ShapeDtypeStruct]:
    """The shapes of a batch, without computing one."""
    del model
    return shapes_on_device(jax.tree.map(lambda array: array[:batch_size], dataset.train))


@batch_shapes.register
def _(dataset: Stream, model: eqx.Module, batch_size: int | None) -> PyTree[jax.ShapeDtypeStruct]:
    del model
    return shapes_on_device(dataset.like(batch_size))


@batch_shapes.register
def _(dataset: OnPolicy, model: eqx.Module, batch_size: int | None) -> PyTree[jax.ShapeDtypeStruct]:
    if batch_size != dataset.time_steps:
        raise ValueError(
            f"`batch_size` must be the number of time steps in a batch, {dataset.time_steps}, "
            f"got {batch_size}."
        )
    batch, _ = eqx.filter_eval_shape(dataset.batch, model, step=jnp.int32(0), key=jax.random.key(0))
    return batch


class Returns(AbstractEvaluator):
    """Evaluates policies by their mean return.

    Only the gradient of a policy-gradient loss is meaningful; its value is not.
    """

    judges_by = None

    def __init__(self, dataset: OnPolicy):
        self._dataset = dataset

    def train(self, model: eqx.Module) -> dict[str, float]:
        del model
        return {}

    def validation(self, model: eqx.Module) -> dict[str, float]:
        del model
        return {}

    def test(self, model: eqx.Module) -> dict[str, float]:
        return {"mean_return": float(self._dataset.mean_return(eqx.nn.inference_mode(model)))}


@functools.singledispatch
def evaluator_of(
    dataset: Any, objective: cv.AbstractObjective, placement: Placement
) -> AbstractEvaluator:
    """The evaluator of a run on `dataset`."""
    return Evaluator(objective, dataset, placement)


@evaluator_of.register
def _(dataset: OnPolicy, objective: cv.AbstractObjective, placement: Placement) -> Returns:
    del objective, placement
    return Returns(dataset)
