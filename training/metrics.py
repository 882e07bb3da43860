"""What to report of a term beside its loss, by its likelihood."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

import curvature as cv


class Metric(NamedTuple):
    """`finish(mean over the examples of example(z, y))`, reported under `name`."""

    name: str
    example: Callable[[Array, Array], Scalar]
    finish: Callable[[float], float]


@functools.singledispatch
def metrics(likelihood: cv.AbstractLoss) -> tuple[Metric, ...]:
    """The metrics of a likelihood: none, unless its class (or a parent of it) is registered here.

    `metrics.register(MyLikelihood)` adds those of a class of one's own.
    """
    del likelihood
    return ()


@metrics.register
def _(likelihood: cv.Categorical) -> tuple[Metric, ...]:
    del likelihood
    return (Metric("accuracy", _accuracy, float),)


@metrics.register
def _(likelihood: cv.Gaussian) -> tuple[Metric, ...]:
    del likelihood
    return (Metric("l2_error", _mean_square, math.sqrt),)


@metrics.register
def _(likelihood: cv.Bernoulli) -> tuple[Metric, ...]:
    del likelihood
    return (Metric("l2_error", lambda z, y: _mean_square(jax.nn.sigmoid(z), y), math.sqrt),)


def _accuracy(z: Float[Array, "*rows c"], y: Array) -> Scalar:
    """The fraction of rows whose likeliest class is `y`, an integer or a probability vector."""
    label = y if jnp.issubdtype(y.dtype, jnp.integer) else jnp.argmax(y, axis=-1)
    return jnp.mean(jnp.argmax(z, axis=-1).astype(label.dtype) == label)


def _mean_square(z: Float[Array, "*shape"], y: Float[Array, "*shape"]) -> Scalar:
    """1/c ‖z − y‖², so that `l2_error` is the root mean square error over examples and outputs."""
    return jnp.mean(jnp.square(z - y))
