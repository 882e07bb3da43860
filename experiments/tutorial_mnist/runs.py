"""Whole training runs; each run is one compiled scan over the batches."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

import curvature as cv
import data
import models
from running.settings import MODEL_STREAM

OBJECTIVE = cv.Supervised(cv.Categorical())


class Task(NamedTuple):
    """Batches of `batch_size` images for `epochs` epochs, evaluated after every `every` steps."""

    batch_size: int
    epochs: int
    every: int

    def order(self, seed: int) -> Int[Array, "points every batch_size"]:
        """The images of every step, those of `python train.py` with this seed."""
        n = len(parts()[0][1])
        rows = [data.batch_indices(seed, e, n, self.batch_size) for e in range(self.epochs)]
        return jnp.asarray(np.concatenate(rows)).reshape(-1, self.every, self.batch_size)


class Run(NamedTuple):
    """Losses and accuracies after the steps `every`, 2·`every`, …; the loss of every step's batch.

    If the optimiser averages the weights, the evaluations use the averages. `batch_loss` and
    `last_train_loss` use the weights themselves; the latter is for the last weights. `rejected` is
    the number of rejected steps, and `end` are the final weights.
    """

    train_loss: Float[np.ndarray, " points"]
    train_accuracy: Float[np.ndarray, " points"]
    test_loss: Float[np.ndarray, " points"]
    test_accuracy: Float[np.ndarray, " points"]
    batch_loss: Float[np.ndarray, " steps"]
    last_train_loss: float
    rejected: int
    end: PyTree[np.ndarray]


@functools.cache
def parts() -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """The training part and the test part, images and labels each."""
    dataset = data.mnist10k()
    (x, y), (x_test, y_test) = dataset.train, dataset.test
    return (jnp.asarray(x), jnp.asarray(y)), (jnp.asarray(x_test), jnp.asarray(y_test))


def initial(seed: Int[Array, ""] | int) -> models.MLP:
    """784-128-10, with the weights of `python train.py experiment=tutorial_mnist seed=...`."""
    key = jax.random.fold_in(jax.random.key(seed), MODEL_STREAM)
    return models.MLP((28, 28), 10, width=128, depth=1, key=key)


class Trainer:
    """The compiled loop of one method and task: settings and seeds are its arguments."""

    def __init__(self, make: Callable[..., cv.AbstractOptimiser], task: Task):
        self._make, self._task = make, task
        self._loop = jax.jit(self._run)

    def weights(
        self, seed: int, setting: Sequence[float]
    ) -> tuple[PyTree[Array], PyTree[Array], tuple[Array, Array]]:
        """The last weights; the weights at all evaluations; losses and acceptances of all steps."""
        numbers = jnp.asarray(setting, jnp.result_type(float))
        return self._loop(jnp.uint32(seed), numbers, self._task.order(seed), parts()[0])

    def final_loss(self, seed: int, setting: Sequence[float]) -> float:
        """The training loss at the end."""
        _, weights, _ = self.weights(seed, setting)
        losses, _ = scores(jax.tree.map(lambda leaf: leaf[-1:], weights), parts()[0])
        return float(losses[0])

    def run(self, seed: int, setting: Sequence[float]) -> Run:
        """One training run."""
        last, weights, (losses, accepted) = self.weights(seed, setting)
        train, test = (scores(weights, part) for part in parts())
        rejected = int(np.sum(~np.asarray(accepted)))
        end = jax.tree.map(lambda leaf: np.asarray(leaf[-1]), weights)
        last_train_loss = float(OBJECTIVE.loss(with_weights(last), parts()[0]))
        return Run(*train, *test, np.ravel(losses), last_train_loss, rejected, end)

    def _run(
        self,
        seed: Int[Array, ""],
        setting: Float[Array, " numbers"],
        order: Int[Array, "points every batch_size"],
        train: PyTree[Array],
    ) -> tuple[PyTree[Array], PyTree[Array], tuple[Array, Array]]:
        model, optimiser = initial(seed), self._make(*setting)
        start, static = eqx.partition((model, optimiser.init(model)), eqx.is_array)

        def step(carry: tuple[PyTree, Array], rows: Array) -> tuple[tuple[PyTree, Array], Any]:
            arrays, count = carry
            model, state = eqx.combine(arrays, static)
            batch = jax.tree.map(lambda part: part[rows], train)
            key = jax.random.fold_in(jax.random.key(seed), count)
            model, state, info = optimiser.step(model, batch, state, key=key)
            arrays = eqx.filter((model, state), eqx.is_array)
            return (arrays, count + 1), (info.loss, info.accepted)

        def to_next_point(carry: tuple[PyTree, Array], rows: Array) -> tuple[Any, Any]:
            carry, infos = jax.lax.scan(step, carry, rows)
            model, state = eqx.combine(carry[0], static)
            return carry, (eqx.filter(cv.evaluated(optimiser, model, state), eqx.is_array), infos)

        count = jnp.zeros((), jnp.int32)
        (end, _), found = jax.lax.scan(to_next_point, (start, count), order)
        model, _ = end
        return model, *found


def scores(
    weights: PyTree[Array], part: tuple[Array, Array]
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Loss and accuracy on one part of the data, for the weights at every evaluation."""
    losses, accuracies = _scores(weights, part)
    return np.asarray(losses), np.asarray(accuracies)


def with_weights(weights: PyTree[Array]) -> models.MLP:
    """The model with these weights."""
    static = eqx.filter(eqx.filter_eval_shape(initial, 0), _is_shape, inverse=True)
    return eqx.combine(jax.tree.map(jnp.asarray, weights), static)


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


@jax.jit
def _scores(weights: PyTree[Array], part: tuple[Array, Array]) -> tuple[Array, Array]:
    x, y = part

    def at(weights: PyTree[Array]) -> tuple[Array, Array]:
        model = with_weights(weights)
        right = jnp.argmax(jax.vmap(model)(x), axis=1) == y
        return OBJECTIVE.loss(model, part), jnp.mean(right)

    return jax.lax.map(at, weights)
