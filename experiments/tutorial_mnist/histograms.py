"""Weights, gradients and natural gradients, before training and after it."""

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

import curvature as cv

from .rank_one import OBJECTIVE

Flat = Float[np.ndarray, " P"]


def quantities(
    models: dict[str, eqx.Module],
    natural: dict[str, tuple[cv.AbstractCurvature, float]],
    batch: tuple[Array, Array],
    key: PRNGKeyArray,
) -> dict[str, dict[str, Flat]]:
    """By quantity, then by method: w, the gradient g of the batch, and (C + λI)⁻¹g.

    **Arguments:** `models`, of every method; `natural`, C and λ of the natural-gradient methods.
    """
    gradients = {name: _gradient(model, batch) for name, model in models.items()}
    directions = {name: _direction(*natural[name], models[name], batch, key) for name in natural}
    return {
        "weights": {name: _flat(model) for name, model in models.items()},
        "gradient": gradients,
        "natural gradient": directions,
    }


def _gradient(model: PyTree, batch: tuple[Array, Array]) -> Flat:
    return _flat(OBJECTIVE.linearise(model, batch).grad)


def _direction(
    curvature: cv.AbstractCurvature,
    damping: float,
    model: PyTree,
    batch: tuple[Array, Array],
    key: PRNGKeyArray,
) -> Flat:
    """The direction that a step subtracts, without momentum, solved to a residual of 1e-4."""
    solver = cv.CG(rtol=1e-4, max_steps=500)
    full = optx.LearningRate(1.0)
    optimiser = cv.NaturalGradient(OBJECTIVE, curvature, solver, damping=damping, search=full)
    new, _, _ = optimiser.step(model, batch, optimiser.init(model), key=key)
    return _flat(jax.tree.map(jnp.subtract, *(_arrays(m) for m in (model, new))))


def _arrays(model: PyTree) -> PyTree[Array]:
    return jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))


def _flat(tree: PyTree) -> Flat:
    return np.asarray(jfu.ravel_pytree(_arrays(tree))[0])
