"""Every curvature, for every model and likelihood, is the dense matrix of its definition."""

import functools
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import curvature as cv
from tests.curvature import dense
from tests.curvature.cases import CURVATURES, LIKELIHOODS, MODELS, TABLE, Case, curvature

pytestmark = pytest.mark.usefixtures("quick_compile")
KEY = jax.random.key(3)


def definition(name: str, term: dense.Term, likelihood: str) -> dense.Metric:
    """The metric of conf/curvature/`name`.yaml on the outputs of a term."""
    of_rho = LIKELIHOODS[likelihood]
    return {
        "gauss_newton": dense.gauss_newton(term.distribution),
        "exact_fisher": dense.exact_fisher(term.distribution),
        "empirical_fisher": dense.empirical_fisher(term.distribution),
        "divergence": dense.divergence(of_rho.kl),
        "divergence_hellinger": dense.divergence(of_rho.squared_hellinger),
        "divergence_euclidean": dense.divergence(lambda z, z2: jnp.sum((z - z2) ** 2) / 2),
    }[name]


def sampled_metric(
    distribution: dense.Distribution, z: jax.Array, columns: jax.Array
) -> jax.Array:
    """The mean outer product of the scores of the targets that were drawn.

    `columns` of S are scores, divided by √samples. Where there are finitely many outcomes, the
    score that enters here is that of the outcome nearest to each column.
    """
    drawn = columns.T * jnp.sqrt(columns.shape[1])
    if not isinstance(distribution, dense.Gaussian):
        _, possible = dense.scores(distribution, z)
        distance = jnp.sum((drawn[:, None, :] - possible[None, :, :]) ** 2, axis=-1)
        drawn = possible[jnp.argmin(distance, axis=1)]
    return drawn.T @ drawn / len(drawn)


def references(case: Case, likelihood: str, keys: Any, drawn: Any) -> dict[str, Any]:
    """The dense matrix of every curvature that this module knows a definition of."""
    params = eqx.filter(case.model, case.trainable)
    size = jfu.ravel_pytree(params)[0].size
    matrices: dict[str, Any] = {name: 0.0 for name in CURVATURES}
    matrices["identity"] = jnp.eye(size)
    for term, key, columns in zip(case.terms, keys, drawn, strict=True):
        term = dense.Term(**(vars(term) | {"keys": key}))
        J, z = term.jacobians(case.model, case.trainable), term.values(case.model)
        scale = term.weight / len(z)
        for name in CURVATURES:
            if name == "identity":
                continue
            if name == "true_fisher":
                M = jax.vmap(functools.partial(sampled_metric, term.distribution))(z, columns)
            else:
                M = jax.vmap(definition(name, term, likelihood))(z, term.targets)
            matrices[name] += dense.pullback(scale, J, M)
    return matrices
