"""The operator of every curvature is the dense matrix of its definition."""

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
from curvature.operators._base import matrix_by_products
from curvature.rows import sums
from tests.curvature import cases, dense
from tests.curvature.cases import CURVATURES, MODELS, operators, product, supervised
from tests.curvature.references import metrics, references
from tests.curvature.tools import distance, flat
from tests.selection import slow_but

# One program computes all curvatures of a group.
GROUPS = [["identity", "true_fisher", "divergence"]]
GROUPS.append([name for name in CURVATURES if name not in GROUPS[0]])
# All curvatures are tested for each likelihood and for several terms. The other models are tested
# with one group.
WHOLE = [*(("tanh", likelihood) for likelihood in cases.LIKELIHOODS), ("several_terms", "gaussian")]
ROWS = [(*pair, name) for pair in WHOLE for name in CURVATURES]
for _k, _model in enumerate(model for model in MODELS if model not in dict(WHOLE)):
    ROWS += [
        (_model, cases.ONLY_LIKELIHOOD.get(_model, "categorical"), name) for name in GROUPS[_k % 2]
    ]
QUICK = [("tanh", "categorical", name) for name in GROUPS[0]]
KEY = jax.random.key(3)


def evaluated(model: str, likelihood: str, name: str) -> SimpleNamespace:
    """A product, the matrix and the diagonal in float64, and the dense matrix or None."""
    group = next(group for group in GROUPS if name in group)
    found = _evaluated(model, likelihood, tuple(group))
    return SimpleNamespace(
        vector=found.vector, numbers=found.numbers[name], reference=found.references.get(name)
    )


@functools.cache
def _evaluated(model: str, likelihood: str, names: tuple[str, ...]) -> SimpleNamespace:
    with jax.enable_x64(True):
        case = MODELS[model](likelihood)
        size = flat(eqx.filter(case.model, case.trainable)).size
        vector = jnp.asarray(np.random.default_rng(1).normal(size=size))

        @eqx.filter_jit
        def library(model: Any, batch: Any, vector: Array) -> Any:
            found = operators(case, likelihood, KEY, model, batch, ["true_fisher", *names])
            numbers = {
                name: (product(C, vector), C.as_matrix(), lx.diagonal(C))
                for name, C in found.items()
                if name in names
            }
            sampled = found["true_fisher"]
            return numbers, [t.keys for t in sampled.linearisation.terms], sampled.factors

        numbers, keys, factors = library(case.model, case.batch, vector)
        terms = [replace(term, keys=k) for term, k in zip(case.terms, keys, strict=True)]
        drawn = [factor.matrix for factor in factors]
        dense_matrices = references(replace(case, terms=terms), drawn, names)
    return SimpleNamespace(
        vector=np.asarray(vector),
        numbers=jax.tree.map(np.asarray, numbers),
        references=dense_matrices,
    )


def close(actual: Any, expected: Any, tolerance: float = 1e-10) -> bool:
    assert actual.dtype == np.asarray(expected).dtype
    return distance(actual, expected) <= tolerance


@pytest.mark.parametrize(("model", "likelihood", "name"), slow_but(QUICK, ROWS))
def test_it_is_the_dense_matrix_of_its_definition(model, likelihood, name):
    found = evaluated(model, likelihood, name)
    applied, matrix, diagonal = found.numbers
    assert close(matrix, matrix.T, 1e-13)
    values = np.linalg.eigvalsh(matrix)
    assert values[0] >= -1e-13 * values[-1]
    expected = matrix if found.reference is None else found.reference
    assert np.linalg.norm(expected) > 0
    assert close(matrix, expected)
    assert close(applied, expected @ found.vector)
    assert close(diagonal, np.diag(expected))


@functools.cache
def operator_of(model: str, likelihood: str, name: str) -> lx.AbstractLinearOperator:
    case = MODELS[model](likelihood)

    @eqx.filter_jit
    def compiled(model: Any, batch: Any) -> lx.AbstractLinearOperator:
        return operators(case, likelihood, KEY, model, batch, names=[name])[name]

    return compiled(case.model, case.batch)


@pytest.mark.parametrize(
    "name", slow_but(["true_fisher"], ["identity", "true_fisher", "gauss_newton"])
)
def test_functions_of_lineax_agree_with_the_matrix(x64, name):
    C, found = operator_of("tanh", "categorical", name), evaluated("tanh", "categorical", name)
    vector, (expected, matrix, _) = jnp.asarray(found.vector), found.numbers

    @eqx.filter_jit
    def compiled(C: Any) -> Any:
        held = lx.materialise(C)
        same = [product(other, vector) for other in (C.T, lx.linearise(C), lx.conj(C), held)]
        whole = cv.damped(C, 0.3)
        numbers = product(whole, vector), whole.as_matrix(), lx.diagonal(whole)
        return same, held.as_matrix(), numbers

    products, held, damped = compiled(C)
    with_damping = matrix + 0.3 * np.eye(len(matrix))
    assert close(damped[0], with_damping @ found.vector, 1e-13)
    assert close(damped[1], with_damping, 1e-13)
    assert close(damped[2], np.diag(with_damping), 1e-13)
    assert all(close(other, expected, 1e-13) for other in products)
    assert close(held, matrix, 1e-13)
    for operator in (C, cv.damped(C, 0.3)):
        assert lx.is_symmetric(operator)
        assert lx.is_positive_semidefinite(operator)
        assert lx.is_diagonal(operator) == (name == "identity")
    weights = eqx.filter(MODELS["tanh"]("categorical").model, eqx.is_inexact_array)
    assert C.in_structure() == C.out_structure() == jax.eval_shape(lambda: weights)


class TestDamped:
    def test_identity(self, x64):
        damped = cv.damped(lx.IdentityLinearOperator(jax.ShapeDtypeStruct((3,), float)), 0.3)
        assert lx.is_diagonal(damped)
        assert np.array_equal(damped.as_matrix(), 1.3 * np.eye(3))

    def test_an_operator_that_is_not_semidefinite_is_refused(self):
        with pytest.raises(ValueError, match=r"Tag it with `lineax.positive_semidefinite_tag`"):
            cv.damped(lx.MatrixLinearOperator(jnp.eye(2)), 1.0)


def test_frozen_weights_are_no_part_of_the_gradient(x64):
    case = MODELS["frozen"]("categorical")

    def make(model: Any, batch: Any) -> Any:
        return case.objective.linearise(model, batch, trainable=case.trainable).grad

    params = eqx.filter_eval_shape(make, case.model, case.batch)
    assert params.layers[0].bias is params.layers[1].weight is params.layers[2].weight is None
    size = case.model.layers[0].weight.size + case.model.layers[2].bias.size
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == size


@pytest.mark.parametrize("n", slow_but([50], [1, 20, 40, 50]))
def test_several_chunks_give_the_dense_matrix(x64, monkeypatch, n):
    """A sum over rows takes 20 examples per chunk; products take a chunk of columns."""
    monkeypatch.setattr(sums, "_CHUNK_BYTES", 20 * 3 * (24 * 3 + 3) * 8)
    case = supervised(eqx.nn.Linear(24, 3, key=jax.random.key(0)), "categorical", inputs=(24,), n=n)
    (term,) = case.terms

    @eqx.filter_jit
    def compiled(model: Any, batch: Any) -> Any:
        C = cv.ExactFisher().operator(case.objective.linearise(model, batch))
        found = matrix_by_products(C), sums.matrix_of(C.linearisation, C.factors), C.diagonal()
        z = term.values(model)
        M = jax.vmap(dense.exact_fisher(term.distribution))(z, term.targets)
        return *found, term.jacobians(model, case.trainable), M

    by_products, by_rows, diagonal, J, M = compiled(case.model, case.batch)
    expected = dense.pullback(1 / n, J, M)
    assert close(by_products, expected)
    assert close(by_rows, expected)
    assert close(diagonal, np.diag(expected))


@pytest.mark.parametrize(
    ("model", "name"),
    slow_but(
        [("called_twice", "true_fisher")],
        [("several_terms", "gauss_newton"), ("called_twice", "true_fisher")],
    ),
)
def test_the_matrix_by_rows_is_the_matrix_by_products(x64, model, name):
    case = MODELS[model]("categorical")

    @eqx.filter_jit
    def ways(model: Any, batch: Any) -> Any:
        C = operators(case, "categorical", KEY, model, batch, [name])[name]
        return sums.matrix_of(C.linearisation, C.factors), matrix_by_products(C)

    assert close(*ways(case.model, case.batch), 1e-12)


@pytest.mark.usefixtures("as_installed")
def test_diagonal_of_a_batch_of_numpy_arrays(x64):
    case = supervised(eqx.nn.Linear(3, 3, key=jax.random.key(0)), "categorical", n=70)
    x, y = jax.tree.map(np.asarray, case.batch)

    @jax.jit
    def diagonal() -> Array:
        return (
            cv.EmpiricalFisher().operator(case.objective.linearise(case.model, (x, y))).diagonal()
        )

    p = np.exp(x @ np.asarray(case.model.weight).T + np.asarray(case.model.bias))
    g = p / p.sum(axis=1, keepdims=True) - np.eye(3)[y]
    rows = np.einsum("no,ni->noi", g, np.insert(x, 3, 1, axis=1))
    rows = np.concatenate([rows[..., :3].reshape(70, 9), rows[..., 3]], axis=1)
    assert close(diagonal(), np.mean(rows**2, axis=0))


def gradients(names: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """∇ vᵀC(w)v by products, by matrices and by the dense reference, each [curvatures, P]."""
    with jax.enable_x64(True):
        model = eqx.nn.MLP(2, 3, 2, 1, activation=jnp.tanh, key=jax.random.key(0))
        case = supervised(model, "categorical", inputs=(2,), n=3)
        (term,) = case.terms
        params, static = eqx.partition(case.model, eqx.is_inexact_array)
        w, unravel = jfu.ravel_pytree(params)
        v = jnp.asarray(np.random.default_rng(1).normal(size=w.shape))

        def library(w: Array) -> tuple[Array, Array, Array]:
            found = operators(
                case, "categorical", KEY, eqx.combine(unravel(w), static), case.batch, names
            )
            applied = jnp.stack([v @ product(C, v) for C in found.values()])
            matrices = jnp.stack([v @ C.as_matrix() @ v for C in found.values()])
            sampled = cases.curvature("true_fisher", "categorical").operator(
                next(iter(found.values())).linearisation, key=KEY
            )
            return jnp.concatenate([applied, matrices]), sampled.factors[0].matrix

        def densely(w: Array, S: Array) -> Array:
            here = eqx.combine(unravel(w), static)
            z, J = term.values(here), term.jacobians(here, case.trainable)
            Ms = metrics(term.distribution, tuple(names))(z, term.targets, S)
            return jnp.stack([jnp.einsum("ic,icd,id->", J @ v, Ms[n], J @ v) for n in names]) / 3

        @jax.jit
        def compiled(w: Array) -> Any:
            found, S = jax.jacrev(library, has_aux=True)(w)
            return found, jax.jacrev(densely)(w, S)

        found, expected = map(np.asarray, compiled(w))
    return found[: len(names)], found[len(names) :], expected


NAMES = [name for name in CURVATURES if name != "identity"]


@pytest.mark.parametrize("names", [["divergence"], pytest.param(NAMES, marks=pytest.mark.slow)])
def test_its_derivative_in_the_weights_is_that_of_the_dense_matrix(names):
    for by_products, by_matrix, expected in zip(*gradients(names), strict=True):
        assert np.linalg.norm(expected) > 0
        assert close(by_products, expected, 1e-9)
        assert close(by_matrix, expected, 1e-9)
