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
from jaxtyping import Array, Float

import curvature as cv
from tests.curvature import dense
from tests.curvature.cases import (
    CURVATURES,
    LIKELIHOODS,
    MODELS,
    TABLE,
    Case,
    curvature,
    mlp,
    supervised,
)

pytestmark = pytest.mark.usefixtures("quick_compile")
KEY = jax.random.key(3)
# What does not depend on the model is held against one term and against several.
FEW = [("tanh", likelihood) for likelihood in LIKELIHOODS] + [("several_terms", "categorical")]


def metric(name: str, distribution: dense.Distribution, likelihood: str) -> dense.Metric | None:
    """The definition of conf/curvature/`name`.yaml; None for a file that came later."""
    of_rho = LIKELIHOODS[likelihood]
    return {
        "gauss_newton": dense.gauss_newton(distribution),
        "exact_fisher": dense.exact_fisher(distribution),
        "empirical_fisher": dense.empirical_fisher(distribution),
        "divergence": dense.divergence(of_rho.kl),
        "divergence_hellinger": dense.divergence(of_rho.squared_hellinger),
        "divergence_euclidean": dense.divergence(lambda z, z2: jnp.sum((z - z2) ** 2) / 2),
    }.get(name)


def sampled_metric(
    distribution: dense.Distribution, z: Array, columns: Float[Array, "c k"]
) -> Float[Array, "c c"]:
    """The mean outer product of the scores of the k targets that were drawn.

    Where outcomes are finitely many, the score of the one nearest to each column enters here.
    """
    drawn = columns.T * columns.shape[1] ** 0.5
    if not isinstance(distribution, dense.Gaussian):
        _, possible = dense.scores(distribution, z)
        distance = jnp.sum((drawn[:, None, :] - possible[None, :, :]) ** 2, axis=-1)
        drawn = possible[jnp.argmin(distance, axis=1)]
    return drawn.T @ drawn / len(drawn)


def references(case: Case, likelihood: str, keys: Any, drawn: Any) -> dict[str, Any]:
    """The dense matrix of every curvature that has a definition here."""
    size = jfu.ravel_pytree(eqx.filter(case.model, case.trainable))[0].size
    parts: dict[str, list[Array]] = {"identity": [jnp.eye(size)]}
    for term, key, columns in zip(case.terms, keys, drawn, strict=True):
        term = dense.Term(**(vars(term) | {"keys": key}))
        J, z = term.jacobians(case.model, case.trainable), term.values(case.model)
        of_targets = {name: metric(name, term.distribution, likelihood) for name in CURVATURES}
        Ms = {name: jax.vmap(M)(z, term.targets) for name, M in of_targets.items() if M}
        Ms["true_fisher"] = jax.vmap(functools.partial(sampled_metric, term.distribution))(
            z, columns
        )
        for name, M in Ms.items():
            parts.setdefault(name, []).append(dense.pullback(term.weight / len(z), J, M))
    return {name: sum(of_terms) for name, of_terms in parts.items()}


def operators(
    case: Case, likelihood: str, model: Any, batch: Any
) -> dict[str, lx.AbstractLinearOperator]:
    linearisation = case.objective.linearise(
        model, batch, trainable=case.trainable, key=case.key
    )
    return {
        name: curvature(name, likelihood).operator(linearisation, key=KEY) for name in CURVATURES
    }


def product(operator: lx.AbstractLinearOperator, vector: Float[Array, " P"]) -> Array:
    """C v for ravelled weights."""
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), operator.in_structure())
    return jfu.ravel_pytree(operator.mv(jfu.ravel_pytree(zeros)[1](vector)))[0]


@functools.cache
def evaluated(model: str, likelihood: str) -> SimpleNamespace:
    """All numbers of one model and likelihood, in float64, from one compiled program."""
    with jax.enable_x64(True):
        case = MODELS[model](likelihood)
        size = jfu.ravel_pytree(eqx.filter(case.model, case.trainable))[0].size
        vector = jnp.asarray(np.random.default_rng(1).normal(size=size))

        @eqx.filter_jit
        def library(model: Any, batch: Any, vector: Array) -> Any:
            found = operators(case, likelihood, model, batch)
            numbers = {
                name: (product(C, vector), C.as_matrix(), lx.diagonal(C))
                for name, C in found.items()
            }
            sampled = found["true_fisher"]
            return numbers, [t.keys for t in sampled.linearisation.terms], sampled.factors

        numbers, keys, factors = library(case.model, case.batch, vector)
        drawn = [factor.matrix for factor in factors]
        dense_matrices = jax.jit(
            lambda keys, drawn: references(case, likelihood, keys, drawn)
        )(keys, drawn)
    found = jax.tree.map(np.asarray, (vector, numbers, dense_matrices))
    return SimpleNamespace(**dict(zip(("vector", "numbers", "references"), found)))


def close(actual: Any, expected: Any, tolerance: float = 1e-10) -> bool:
    """Relative error, in the Euclidean (Frobenius) norm."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    return bool(np.linalg.norm(actual - expected) <= tolerance * np.linalg.norm(expected))


@pytest.mark.parametrize("name", CURVATURES)
@pytest.mark.parametrize(("model", "likelihood"), TABLE)
class TestDense:
    def test_matrix(self, model, likelihood, name):
        found = evaluated(model, likelihood)
        if name in found.references:
            assert np.linalg.norm(found.references[name]) > 0
            assert close(found.numbers[name][1], found.references[name])

    def test_product(self, model, likelihood, name):
        found = evaluated(model, likelihood)
        applied, matrix, _ = found.numbers[name]
        assert close(applied, found.references.get(name, matrix) @ found.vector)

    def test_diagonal(self, model, likelihood, name):
        found = evaluated(model, likelihood)
        _, matrix, diagonal = found.numbers[name]
        assert close(diagonal, np.diag(found.references.get(name, matrix)))

    def test_symmetric_and_semidefinite(self, model, likelihood, name):
        _, matrix, _ = evaluated(model, likelihood).numbers[name]
        assert close(matrix, matrix.T, 1e-13)
        values = np.linalg.eigvalsh(matrix)
        assert values[0] >= -1e-13 * values[-1]
