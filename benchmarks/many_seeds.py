"""Steps of many seeds at once, under `vmap`, against as many steps one after the other."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, PyTree

import curvature as cv

from .problems import natural_gradient
from .timing import Rounds

SEEDS, _BATCHES, _BATCH_SIZE = 16, 8, 64


def measure(rounds: int) -> dict[str, Any]:
    """A 64-128-128-10 network, empirical Fisher, solved in sample space."""
    keys = jax.random.split(jax.random.key(0), SEEDS)
    models = eqx.filter_vmap(lambda key: eqx.nn.MLP(64, 10, 128, 2, key=key))(keys)
    optimiser = natural_gradient(cv.EmpiricalFisher(), cv.SampleSpace())
    arrays, static = eqx.partition(models, eqx.is_array)
    first = jax.tree.map(lambda leaf: leaf[0], arrays)
    state = optimiser.init(eqx.combine(first, static))
    x_key, y_key = jax.random.split(jax.random.key(1))
    shape = _BATCHES, _BATCH_SIZE
    batches = jax.random.uniform(x_key, (*shape, 64)), jax.random.randint(y_key, shape, 0, 10)

    def step(params: PyTree, batch: tuple[Array, Array]) -> tuple[PyTree, Any]:
        model, _, info = optimiser.step(eqx.combine(params, static), batch, state)
        return eqx.filter(model, eqx.is_array), info

    def steps(params: PyTree, batches: tuple[Array, Array], step: Callable[..., Any]) -> Any:
        return jax.lax.scan(step, params, batches)

    one = jax.jit(functools.partial(steps, step=step))
    at_once = jax.jit(functools.partial(steps, step=jax.vmap(step, in_axes=(0, None))))
    things = {"one": lambda: one(first, batches), "all": lambda: at_once(arrays, batches)}
    times = Rounds(things, rounds)
    return {
        "problem": f"64-128-128-10, batch {_BATCH_SIZE}, {SEEDS} seeds",
        f"of {SEEDS} steps": times.combined(lambda of: of("all") / (SEEDS * of("one"))),
    }
