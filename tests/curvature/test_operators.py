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


def references(
    case: Case, likelihood: str, keys: Any, drawn: Any, pullback: Any = dense.pullback
) -> dict[str, Any]:
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
            parts.setdefault(name, []).append(pullback(term.weight / len(z), J, M))
    return {name: sum(of_terms) for name, of_terms in parts.items()}


def operators(
    case: Case, likelihood: str, model: Any, batch: Any, names: list[str] = CURVATURES
) -> dict[str, lx.AbstractLinearOperator]:
    linearisation = case.objective.linearise(
        model, batch, trainable=case.trainable, key=case.key
    )
    return {
        name: curvature(name, likelihood).operator(linearisation, key=KEY) for name in names
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


@functools.cache
def float32(likelihood: str) -> SimpleNamespace:
    """Products in float32; in float64 the dense matrices, and those of absolute values."""
    case = MODELS["tanh"](likelihood)
    size = jfu.ravel_pytree(eqx.filter(case.model, case.trainable))[0].size
    vector = np.random.default_rng(1).normal(size=size).astype(np.float32)

    @eqx.filter_jit
    def library(model: Any, batch: Any, vector: Array) -> Any:
        found = operators(case, likelihood, model, batch)
        return {name: product(C, vector) for name, C in found.items()}, found["true_fisher"].factors

    applied, factors = library(case.model, case.batch, jnp.asarray(vector))

    def absolute(scale: float, J: Array, M: Array) -> Array:
        norms = jnp.linalg.norm(M, axis=(1, 2), keepdims=True)
        return dense.pullback(scale, jnp.abs(J), jnp.broadcast_to(norms, M.shape))

    with jax.enable_x64(True):
        model, terms, drawn = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float64) if eqx.is_inexact_array(x) else x,
            (case.model, [vars(term) for term in case.terms], [f.matrix for f in factors]),
        )
        wide = replace(case, model=model, terms=[dense.Term(**term) for term in terms])
        matrices, absolutes = (
            jax.jit(lambda drawn, p=p: references(wide, likelihood, [None], drawn, p))(drawn)
            for p in (dense.pullback, absolute)
        )
    magnitudes = {name: np.asarray(A) @ np.abs(vector) for name, A in absolutes.items()}
    return SimpleNamespace(
        vector=vector,
        applied=jax.tree.map(np.asarray, applied),
        references=jax.tree.map(np.asarray, matrices),
        magnitudes=magnitudes,
    )


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


def made(model: str, likelihood: str, name: str) -> lx.AbstractLinearOperator:
    case = MODELS[model](likelihood)
    return operators(case, likelihood, case.model, case.batch, names=[name])[name]


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
        with pytest.raises(ValueError, match=r"`damped\(damping=...\)` must be a finite number ≥ 0"):
            cv.damped(lx.IdentityLinearOperator(jax.ShapeDtypeStruct((2,), jnp.float32)), damping)

    def test_an_operator_that_is_not_semidefinite_is_refused(self):
        with pytest.raises(ValueError, match="Tag it with `lineax.positive_semidefinite_tag`"):
            cv.damped(lx.MatrixLinearOperator(jnp.eye(2)), 1.0)


def test_frozen_weights_are_no_part_of_it():
    case = MODELS["frozen"]("categorical")
    params = case.objective.linearise(case.model, case.batch, trainable=case.trainable).params
    assert params.layers[0].bias is params.layers[1].weight is params.layers[2].weight is None
    size = case.model.layers[0].weight.size + case.model.layers[2].bias.size
    assert evaluated("frozen", "categorical").numbers["gauss_newton"][1].shape == (size, size)


@pytest.mark.parametrize("n", [64, 70])
def test_more_than_one_chunk(x64, n):
    """Of examples, for the diagonal; of columns, for the matrix."""
    case = supervised(eqx.nn.Linear(24, 3, key=jax.random.key(0)), "categorical", inputs=(24,), n=n)
    C = cv.ExactFisher().operator(case.objective.linearise(case.model, case.batch))
    (term,) = case.terms
    J, z = term.jacobians(case.model, case.trainable), term.values(case.model)
    M = jax.vmap(dense.exact_fisher(term.distribution))(z, term.targets)
    expected = dense.pullback(1 / n, J, M)
    assert close(C.as_matrix(), expected)
    assert close(C.diagonal(), jnp.diag(expected))


# The arrays of numpy are not among those it cuts into chunks.
@pytest.mark.xfail(strict=True)
@pytest.mark.usefixtures("as_installed")
def test_diagonal_of_a_batch_of_numpy_arrays(x64):
    case = supervised(eqx.nn.Linear(3, 3, key=jax.random.key(0)), "categorical", n=70)
    batch = jax.tree.map(np.asarray, case.batch)
    C = cv.ExactFisher().operator(case.objective.linearise(case.model, batch))
    assert close(C.diagonal(), np.diag(C.as_matrix()))


@pytest.mark.parametrize("name", CURVATURES)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_float32(name, likelihood):
    """In float32 a product is as near as its roundings allow.

    Cv is a sum over paths through the network, forward with v and back. No path has more than
    K = 70 rounded operations: 6 in each of three layers (a sum of 4, a bias, an activation) for
    the activations, as many for the tangents and for the cotangents, 10 in S Sᵀ, 6 in the mean
    over examples. So the error is at most Kε/(1 − Kε) times the same sum of absolute values
    (Higham 2002, section 3.1), for which |J| stands here; and for |M| its norm, in which the
    eigendecomposition of a symmetric root is backward stable.
    """
    found = float32(likelihood)
    if name not in found.references:
        pytest.skip("no definition to compare with")
    roundings = 70 * np.finfo(np.float32).eps
    gap = np.linalg.norm(found.applied[name] - found.references[name] @ found.vector)
    bound = roundings / (1 - roundings) * np.linalg.norm(found.magnitudes[name])
    assert found.applied[name].dtype == np.float32
    assert gap <= bound
    # The bound says something: it is far below the product itself.
    assert bound <= 1e-3 * np.linalg.norm(found.applied[name])
