"""The networks and batches of the published comparisons."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optax
import optimistix as optx
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Scalar

import curvature as cv
import models


@dataclass(frozen=True)
class Problem:
    """A 784-h-10 ReLU MLP with random inputs and labels; the cost of a step depends on neither."""

    hidden: int
    batch_size: int
    batches: int  # distinct ones, over which a scan runs

    @property
    def name(self) -> str:
        return f"784-{self.hidden}-10, batch {self.batch_size}"

    def model(self) -> eqx.nn.MLP:
        return eqx.nn.MLP(784, 10, self.hidden, 1, key=jax.random.key(0))

    def data(self) -> tuple[Float[Array, "batches n 784"], Int[Array, "batches n"]]:
        x_key, y_key = jax.random.split(jax.random.key(1))
        shape = (self.batches, self.batch_size)
        return jax.random.uniform(x_key, (*shape, 784)), jax.random.randint(y_key, shape, 0, 10)


@dataclass(frozen=True)
class Images:
    """A model of the zoo on random images; `opaque` hides its structure."""

    name: str
    build: Callable[[PRNGKeyArray], Any]
    batch_size: int
    batches: int
    opaque: bool = False
    pixels: tuple[int, ...] = (8, 8)

    def model(self) -> Any:
        model = self.build(jax.random.key(0))
        return Opaque(model) if self.opaque else model

    def data(self) -> tuple[Float[Array, "batches n ..."], Int[Array, "batches n"]]:
        x_key, y_key = jax.random.split(jax.random.key(1))
        shape = (self.batches, self.batch_size)
        return jax.random.uniform(x_key, (*shape, *self.pixels)), jax.random.randint(
            y_key, shape, 0, 10
        )


class Opaque(eqx.Module):
    """A model inside a loop of one turn, so that the library cannot recognise its layers."""

    model: Any

    def __call__(self, x: Array) -> Array:
        return jax.lax.scan(lambda _, x: (None, self.model(x)), None, x[None])[1][0]


class Stacked(eqx.Module):
    """Layers of one shape, held as stacked arrays and run by one `scan`."""

    layers: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self, width: int, depth: int, *, key: PRNGKeyArray):
        layers_key, head_key = jax.random.split(key)
        make = eqx.filter_vmap(lambda key: eqx.nn.Linear(width, width, key=key))
        self.layers = make(jax.random.split(layers_key, depth))
        self.head = eqx.nn.Linear(width, 10, key=head_key)

    def __call__(self, x: Array) -> Array:
        arrays, static = eqx.partition(self.layers, eqx.is_array)

        def layer(x: Array, arrays: Any) -> tuple[Array, None]:
            return jnp.tanh(eqx.combine(arrays, static)(x)), None

        return self.head(jax.lax.scan(layer, x.ravel(), arrays)[0])


IMAGES = (
    Images("convnet, batch 128", lambda key: models.ConvNet((8, 8), 10, key=key), 128, 8),
    Images(
        "transformer, batch 128",
        lambda key: models.TransformerEncoder((8, 8), 10, key=key),
        batch_size=128,
        batches=8,
    ),
)

PROBLEMS = (Problem(128, 2, 512), Problem(128, 128, 64), Problem(1024, 512, 6))

OBJECTIVE = cv.Supervised(cv.Categorical())


def natural_gradient(
    curvature: cv.AbstractCurvature, solver: lx.AbstractLinearSolver
) -> cv.NaturalGradient:
    """The step to measure; its learning rate is too small to change the computation."""
    return cv.NaturalGradient(
        OBJECTIVE,
        curvature=curvature,
        solver=solver,
        damping=1e-2,
        search=optx.LearningRate(1e-3),
    )


def loss(model: eqx.nn.MLP, batch: tuple[Array, Array]) -> Scalar:
    """The loss, written by hand without this library."""
    logits = jax.vmap(model)(batch[0])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()


def sgd_step(params: PyTree, static: PyTree, batch: tuple[Array, Array]) -> tuple[PyTree, Scalar]:
    """A plain optax SGD step, written by hand: the unit of "times an SGD step"."""
    optimiser = optax.sgd(1e-3)
    value, grad = jax.value_and_grad(lambda p: loss(eqx.combine(p, static), batch))(params)
    updates, _ = optimiser.update(grad, optimiser.init(params), params)
    return optax.apply_updates(params, updates), value
