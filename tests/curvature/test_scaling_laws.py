"""How a curvature follows its batch and its terms, and how the curvatures follow each other."""

import functools

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import curvature as cv
from tests.curvature import dense
from tests.curvature.cases import CURVATURES, LIKELIHOODS, curvature, library, mlp, supervised

pytestmark = pytest.mark.usefixtures("x64")
# A draw belongs to a place in the batch: the sampled Fisher is a law of means, tested elsewhere.
FIXED = [name for name in CURVATURES if name not in ("true_fisher", "identity")]


def matrix(metric, objective, model, batch):
    """C, from a compiled program."""

    @eqx.filter_jit
    def compiled(model, batch):
        return metric.operator(objective.linearise(model, batch)).as_matrix()

    return np.asarray(compiled(model, batch))


def agree(actual, expected, tolerance=1e-12):
    assert np.linalg.norm(expected) > 0
    return np.linalg.norm(actual - expected) <= tolerance * np.linalg.norm(expected)


# The batch.


@functools.cache
def fixed():
    """A program for every curvature that is not drawn: (model, batch) -> C by name."""
    objective = cv.Supervised(cv.Categorical())

    @eqx.filter_jit
    def compiled(model, batch):
        linearisation = objective.linearise(model, batch)
        return {
            name: curvature(name, "categorical").operator(linearisation).as_matrix()
            for name in FIXED
        }

    return compiled


@functools.cache
def of_examples(*indices):
    """Every C of the examples of those indices."""
    with jax.enable_x64(True):
        case = supervised(mlp(jnp.tanh), "categorical")
        batch = jax.tree.map(lambda leaf: leaf[jnp.asarray(indices)], case.batch)
        return jax.tree.map(np.asarray, fixed()(case.model, batch))


@pytest.mark.parametrize("name", FIXED)
class TestBatch:
    def test_copies_of_an_example_change_nothing(self, name):
        assert agree(of_examples(1, 1, 1, 1, 1)[name], of_examples(1)[name])

    def test_unequal_parts_average_to_the_whole(self, name):
        whole = of_examples(0, 1, 2, 3, 4)[name]
        first, rest = of_examples(0)[name], of_examples(1, 2, 3, 4)[name]
        assert agree((first + 4 * rest) / 5, whole)
        assert not agree((first + rest) / 2, whole, 1e-3)

    def test_the_order_of_examples_is_of_no_account(self, name):
        assert agree(of_examples(3, 0, 4, 2, 1)[name], of_examples(0, 1, 2, 3, 4)[name])


# Terms.


def two_terms(weights):
    """Squares of the first output, classes of all three; 5 examples and 3."""
    a = supervised(mlp(jnp.tanh), "gaussian", outputs=(1,))
    b = supervised(mlp(jnp.tanh), "categorical", n=3)
    terms = {
        "a": cv.Term(lambda model, x: model(x)[:1], library("gaussian"), weight=weights[0]),
        "b": cv.Term(lambda model, x: model(x), library("categorical"), weight=weights[1]),
    }
    return cv.Objective(terms=terms), {"a": a.batch, "b": b.batch}


def evaluated(metric, weights):
    """(loss, gradient, C) of the two terms."""
    objective, batch = two_terms(weights)

    @eqx.filter_jit
    def compiled(model, batch):
        linearisation = objective.linearise(model, batch)
        gradient = jfu.ravel_pytree(linearisation.grad)[0]
        return linearisation.loss, gradient, metric.operator(linearisation).as_matrix()

    return compiled(mlp(jnp.tanh), batch)


@pytest.mark.parametrize("metric", [cv.GaussNewton(), cv.EmpiricalFisher()])
def test_loss_gradient_and_curvature_are_linear_in_the_weights(metric):
    first, second = evaluated(metric, (1.0, 0.0)), evaluated(metric, (0.0, 1.0))
    for mixed, a, b in zip(evaluated(metric, (0.3, 2.0)), first, second, strict=True):
        assert agree(mixed, 0.3 * a + 2.0 * b)


@pytest.mark.parametrize("metric", [cv.GaussNewton(), cv.EmpiricalFisher()])
def test_a_term_of_weight_zero_is_not_there(metric):
    objective, batch = two_terms((0.7, 0.0))
    alone = cv.Objective(terms={"a": objective.terms()["a"]})
    expected = matrix(metric, alone, mlp(jnp.tanh), {"a": batch["a"]})
    assert agree(evaluated(metric, (0.7, 0.0))[2], expected)


# Relations between curvatures.


class NllAlone(cv.AbstractLoss):
    """The loss of a likelihood, without its closed forms."""

    likelihood: cv.AbstractLikelihood

    def nll(self, z: Array, y: Array) -> Array:
        return self.likelihood.nll(z, y)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
class TestFisher:
    """For the three likelihoods, the outputs being natural parameters up to a constant."""

    @pytest.fixture
    def fisher(self, likelihood):
        case = supervised(mlp(jnp.tanh), likelihood)
        return matrix(cv.ExactFisher(), case.objective, case.model, case.batch)

    @pytest.fixture
    def case(self, likelihood):
        return supervised(mlp(jnp.tanh), likelihood)

    def test_is_gauss_newton_by_closed_form(self, case, fisher):
        assert agree(matrix(cv.GaussNewton(), case.objective, case.model, case.batch), fisher)

    def test_is_gauss_newton_by_autodiff(self, case, fisher, likelihood):
        objective = cv.Supervised(NllAlone(library(likelihood)))
        assert agree(matrix(cv.GaussNewton(), objective, case.model, case.batch), fisher, 1e-10)

    def test_is_the_curvature_of_kl(self, case, fisher, likelihood):
        metric = cv.Divergence(cv.KL(library(likelihood)))
        assert agree(matrix(metric, case.objective, case.model, case.batch), fisher, 1e-10)

    def test_is_four_times_that_of_hellinger(self, case, fisher, likelihood):
        metric = cv.Divergence(cv.SquaredHellinger(library(likelihood)))
        assert agree(4 * matrix(metric, case.objective, case.model, case.batch), fisher, 1e-10)

    def test_is_not_the_empirical_fisher(self, case, fisher):
        empirical = matrix(cv.EmpiricalFisher(), case.objective, case.model, case.batch)
        assert not agree(empirical, fisher, 0.1)


def test_euclidean_is_jacobians_squared():
    case = supervised(mlp(jnp.tanh), "categorical")
    J = case.terms[0].jacobians(case.model, case.trainable)
    metric = cv.Divergence(cv.SquaredEuclidean())
    found = matrix(metric, case.objective, case.model, case.batch)
    assert agree(found, np.einsum("icp,icq->pq", J, J) / 5)


def test_gaussian_of_unit_variance_is_euclidean():
    case = supervised(mlp(jnp.tanh), "gaussian")
    unit = cv.Supervised(cv.Gaussian())
    metric = cv.Divergence(cv.SquaredEuclidean())
    found = matrix(cv.ExactFisher(), unit, case.model, case.batch)
    assert agree(found, matrix(metric, unit, case.model, case.batch))


def test_a_metric_of_ones_own():
    """ρ(z, z') = ½ (z' − z)ᵀ A (z' − z) pulls A back."""
    A = jnp.asarray([[2.0, 1.0, 0.0], [1.0, 3.0, -1.0], [0.0, -1.0, 1.0]])
    case = supervised(mlp(jnp.tanh), "categorical")
    metric = cv.Divergence(lambda z, z2: (z2 - z) @ A @ (z2 - z) / 2)
    J = case.terms[0].jacobians(case.model, case.trainable)
    expected = dense.pullback(1 / 5, J, jnp.broadcast_to(A, (5, 3, 3)))
    assert agree(matrix(metric, case.objective, case.model, case.batch), expected)


# Gauss–Newton and the Hessian.


def hessian(case):
    """∇²L by autodiff, in the ravelled weights; of the dense loss, not of the library's."""
    params, static = eqx.partition(case.model, eqx.is_inexact_array)
    flat, unravel = jfu.ravel_pytree(params)
    return jax.jit(
        jax.hessian(lambda flat: dense.loss(case.terms, eqx.combine(unravel(flat), static)))
    )(flat)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_gauss_newton_of_a_linear_model_is_the_hessian(likelihood):
    case = supervised(eqx.nn.Linear(3, 3, key=jax.random.key(0)), likelihood)
    found = matrix(cv.GaussNewton(), case.objective, case.model, case.batch)
    assert agree(found, hessian(case))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_gauss_newton_of_a_piecewise_linear_net_is_the_hessian_within_each_layer(likelihood):
    """The outputs are linear in the weights of any one layer; in those of two, they are not."""
    case = supervised(mlp(jax.nn.relu), likelihood)
    found = matrix(cv.GaussNewton(), case.objective, case.model, case.batch)
    expected = np.asarray(hessian(case))
    ends = np.cumsum([layer.weight.size + layer.bias.size for layer in case.model.layers])
    blocks = [slice(end - size, end) for end, size in zip(ends, np.diff(ends, prepend=0))]
    for block in blocks:
        assert agree(found[block, block], expected[block, block])
    assert not agree(found[blocks[0], blocks[1]], expected[blocks[0], blocks[1]], 0.01)


def test_gauss_newton_of_a_smooth_net_is_not_the_hessian_even_there():
    case = supervised(mlp(jnp.tanh), "categorical")
    found = matrix(cv.GaussNewton(), case.objective, case.model, case.batch)
    first = slice(0, 16)
    assert not agree(found[first, first], hessian(case)[first, first], 0.01)
