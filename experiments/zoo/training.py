"""Trains one model from several seeds in one compiled program."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jaxtyping import Array, Float, Int

import curvature as cv
from data import batch_indices

from .problems import Problem

BATCH_SIZE = 128
DAMPING = 1.0


class Trained(NamedTuple):
    """The results per seed: the loss on the whole training part, and the rejected steps."""

    before: Float[np.ndarray, " seeds"]
    after: Float[np.ndarray, " seeds"]
    rejected: Int[np.ndarray, " seeds"]


def default_optimiser(objective: cv.AbstractObjective, curvature: cv.AbstractCurvature):
    """The optimiser that `python train.py` uses by default with a curvature."""
    search = optx.BacktrackingArmijo(decrease_factor=0.5, slope=0.1, step_init=1.0)
    return cv.NaturalGradient(objective, curvature, damping=DAMPING, search=search)


def train(
    problem: Problem, curvature: cv.AbstractCurvature, seeds: list[int], steps: int
) -> Trained:
    """Train from every seed; the program is compiled once."""
    optimiser = default_optimiser(problem.objective, curvature)
    data = jax.tree.map(jnp.asarray, problem.dataset.train)

    def one(key: Array, order: Int[Array, "steps batch_size"]) -> tuple[Array, Array, Array]:
        model_key, steps_key = jax.random.split(key)
        model = problem.model(model_key)
        arrays, static = eqx.partition((model, optimiser.init(model)), eqx.is_array)

        def step(carry, inputs):
            model, state = eqx.combine(carry, static)
            index, row = inputs
            batch = jax.tree.map(lambda leaf: leaf[row], data)
            model, state, info = optimiser.step(
                model, batch, state, key=jax.random.fold_in(steps_key, index)
            )
            return eqx.filter((model, state), eqx.is_array), info.accepted

        arrays, accepted = jax.lax.scan(step, arrays, (jnp.arange(len(order)), order))
        final, _ = eqx.combine(arrays, static)
        loss = problem.objective.loss
        return loss(model, data), loss(final, data), jnp.sum(~accepted)

    orders = jnp.asarray([_order(seed, len(jax.tree.leaves(data)[0]), steps) for seed in seeds])
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    found = jax.jit(lambda keys, orders: jax.lax.map(lambda x: one(*x), (keys, orders)))
    return Trained(*map(np.asarray, found(keys, orders)))


def _order(seed: int, n: int, steps: int) -> Int[np.ndarray, "steps batch_size"]:
    epochs = -(-steps // (n // BATCH_SIZE))
    rows = [batch_indices(seed, epoch, n, BATCH_SIZE) for epoch in range(epochs)]
    return np.concatenate(rows)[:steps]
