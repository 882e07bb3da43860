"""Steps of many seeds at once under `vmap`, compared with the same steps one after another."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, PyTree

import curvature as cv
import models

from .problems import Images, natural_gradient
from .stepping import Scan
from .timing import Rounds

SEEDS = 16

_PROBLEM = Images(
    "64-128-128-10, batch 64",
    lambda key: models.MLP((8, 8), 10, width=128, depth=2, key=key),
    batch_size=64,
    batches=8,
)


def measure(rounds: int) -> dict[str, Any]:
    """Steps of empirical Fisher, solved in sample space."""
    seeds = eqx.filter_vmap(_PROBLEM.build)(jax.random.split(jax.random.key(0), SEEDS))
    optimiser = natural_gradient(cv.EmpiricalFisher(), cv.SampleSpace())
    arrays, static = eqx.partition(seeds, eqx.is_array)
    state = optimiser.init(_PROBLEM.model())

    def step(params: PyTree, batch: tuple[Array, Array]) -> tuple[PyTree, Any]:
        model, _, info = optimiser.step(eqx.combine(params, static), batch, state)
        return eqx.filter(model, eqx.is_array), info

    first = jax.tree.map(lambda leaf: leaf[0], arrays)
    at_once = Scan(_PROBLEM, jax.vmap(step, in_axes=(0, None)), arrays)
    times = Rounds({"one": Scan(_PROBLEM, step, first), "all": at_once}, rounds)
    return {
        "problem": f"{_PROBLEM.name}, {SEEDS} seeds",
        f"of {SEEDS} steps": times.combined(lambda of: of("all") / (SEEDS * of("one"))),
    }
