"""Every curvature, for every model and likelihood, is the dense matrix of its definition."""

import functools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from jaxtyping import Array

import curvature as cv
from curvature.operators import _dense
from curvature.rows import sums
from tests.curvature import dense
from tests.curvature.cases import CURVATURES, MODELS, WITH_SLOW, operators, product, supervised
from tests.curvature.references import references
from tests.selection import slow_but

KEY = jax.random.key(3)


@functools.cache
def evaluated(model: str, likelihood: str) -> SimpleNamespace:
    """All numbers of one model and likelihood, in float64, from one compiled program."""
    with jax.enable_x64(True):
        case = MODELS[model](likelihood)
        size = jfu.ravel_pytree(eqx.filter(case.model, case.trainable))[0].size
        vector = jnp.asarray(np.random.default_rng(1).normal(size=size))

        @eqx.filter_jit
        def library(model: Any, batch: Any, vector: Array) -> Any:
            found = operators(case, likelihood, KEY, model, batch)
            numbers = {
                name: (product(C, vector), C.as_matrix(), lx.diagonal(C))
                for name, C in found.items()
            }
            sampled = found["true_fisher"]
            return numbers, [t.keys for t in sampled.linearisation.terms], sampled.factors

        numbers, keys, factors = library(case.model, case.batch, vector)
        terms = [replace(term, keys=k) for term, k in zip(case.terms, keys, strict=True)]
        drawn = [factor.matrix for factor in factors]
        dense_matrices = references(replace(case, terms=terms), drawn)
    return SimpleNamespace(
        vector=np.asarray(vector),
        numbers=jax.tree.map(np.asarray, numbers),
        references=dense_matrices,
    )


def close(actual: Any, expected: Any, tolerance: float = 1e-10) -> bool:
    """Relative error, in the Euclidean (Frobenius) norm."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    return bool(np.linalg.norm(actual - expected) <= tolerance * np.linalg.norm(expected))


@pytest.mark.parametrize("name", CURVATURES)
@pytest.mark.parametrize(("model", "likelihood"), WITH_SLOW)
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


def made(model: str, likelihood: str, name: str) -> lx.AbstractLinearOperator:
    case = MODELS[model](likelihood)
    return operators(case, likelihood, KEY, case.model, case.batch, names=[name])[name]


@pytest.mark.parametrize("name", CURVATURES)
def test_eager(x64, name):
    """Outside `jit`, the numbers are the same."""
    C, found = made("tanh", "categorical", name), evaluated("tanh", "categorical")
    assert close(product(C, jnp.asarray(found.vector)), found.numbers[name][0], 1e-13)


@pytest.mark.parametrize("name", CURVATURES)
def test_as_lineax_sees_it(x64, name):
    C, found = made("tanh", "categorical", name), evaluated("tanh", "categorical")
    assert close(product(C.T, jnp.asarray(found.vector)), found.numbers[name][0], 1e-13)
    assert close(product(lx.linearise(C), jnp.asarray(found.vector)), found.numbers[name][0], 1e-13)
    assert lx.is_symmetric(C)
    assert lx.is_positive_semidefinite(C)
    weights = eqx.filter(MODELS["tanh"]("categorical").model, eqx.is_inexact_array)
    assert C.in_structure() == C.out_structure() == jax.eval_shape(lambda: weights)


@pytest.mark.parametrize("model", ["tanh", "several_terms"])
def test_materialised(x64, model):
    C, found = made(model, "categorical", "exact_fisher"), evaluated(model, "categorical")
    held = eqx.filter_jit(lx.materialise)(C)
    assert close(held.as_matrix(), found.numbers["exact_fisher"][1], 1e-13)
    assert close(product(held, jnp.asarray(found.vector)), found.numbers["exact_fisher"][0], 1e-13)
    assert lx.is_positive_semidefinite(held)


class TestDamped:
    def test_matrix(self, x64):
        C, found = made("tanh", "categorical", "exact_fisher"), evaluated("tanh", "categorical")
        _, matrix, _ = found.numbers["exact_fisher"]
        expected, vector = matrix + 0.3 * np.eye(len(matrix)), jnp.asarray(found.vector)
        damped = cv.damped(C, 0.3)
        assert close(damped.as_matrix(), expected, 1e-13)
        assert close(lx.diagonal(damped), np.diag(expected), 1e-13)
        assert close(product(damped, vector), expected @ found.vector, 1e-13)
        assert close(product(damped.T, vector), expected @ found.vector, 1e-13)
        assert lx.is_symmetric(damped)
        assert lx.is_positive_semidefinite(damped)
        assert not lx.is_diagonal(damped)

    def test_identity(self, x64):
        damped = cv.damped(made("tanh", "categorical", "identity"), 0.3)
        assert lx.is_diagonal(damped)
        assert np.array_equal(damped.as_matrix(), 1.3 * np.eye(damped.in_size()))

    @pytest.mark.parametrize("damping", [-1.0, float("nan"), float("inf")])
    def test_a_damping_that_is_none_is_refused(self, damping):
        with pytest.raises(
            ValueError, match=r"`damped\(damping=...\)` must be a finite number ≥ 0"
        ):
            cv.damped(lx.IdentityLinearOperator(jax.ShapeDtypeStruct((2,), jnp.float32)), damping)

    def test_an_operator_that_is_not_semidefinite_is_refused(self):
        with pytest.raises(ValueError, match=r"Tag it with `lineax.positive_semidefinite_tag`"):
            cv.damped(lx.MatrixLinearOperator(jnp.eye(2)), 1.0)


def test_frozen_weights_are_no_part_of_it():
    case = MODELS["frozen"]("categorical")
    params = case.objective.linearise(case.model, case.batch, trainable=case.trainable).params
    assert params.layers[0].bias is params.layers[1].weight is params.layers[2].weight is None
    size = case.model.layers[0].weight.size + case.model.layers[2].bias.size
    assert evaluated("frozen", "categorical").numbers["gauss_newton"][1].shape == (size, size)


@pytest.mark.parametrize("n", slow_but([50], [1, 20, 40, 50]))
def test_more_than_one_chunk(x64, monkeypatch, n):
    """Of 20 examples, for sums over rows; of columns, for a matrix made of products."""
    monkeypatch.setattr(sums, "_CHUNK_BYTES", 20 * 3 * (24 * 3 + 3) * 8)
    case = supervised(eqx.nn.Linear(24, 3, key=jax.random.key(0)), "categorical", inputs=(24,), n=n)
    C = cv.ExactFisher().operator(case.objective.linearise(case.model, case.batch))
    (term,) = case.terms
    J, z = term.jacobians(case.model, case.trainable), term.values(case.model)
    M = jax.jit(jax.vmap(dense.exact_fisher(term.distribution)))(z, term.targets)
    expected = dense.pullback(1 / n, J, M)
    assert close(_dense(C), expected)
    assert close(sums.matrix_of(C.linearisation, C.factors), expected)
    assert close(C.diagonal(), jnp.diag(expected))


@pytest.mark.parametrize("name", ["gauss_newton", "true_fisher", "empirical_fisher"])
@pytest.mark.parametrize("model", ["several_terms", "frozen", "called_twice"])
def test_both_ways_to_the_matrix_agree(x64, model, name):
    C = made(model, "categorical", name)
    rows = eqx.filter_jit(lambda C: sums.matrix_of(C.linearisation, C.factors))(C)
    assert close(rows, eqx.filter_jit(_dense)(C), 1e-12)


@pytest.mark.usefixtures("as_installed")
def test_diagonal_of_a_batch_of_numpy_arrays(x64):
    case = supervised(eqx.nn.Linear(3, 3, key=jax.random.key(0)), "categorical", n=70)
    batch = jax.tree.map(np.asarray, case.batch)
    C = cv.ExactFisher().operator(case.objective.linearise(case.model, batch))
    assert close(C.diagonal(), np.diag(C.as_matrix()))
