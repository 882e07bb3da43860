"""How a curvature depends on its batch and terms, and relations between curvatures."""

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import curvature as cv
from tests.curvature import dense
from tests.curvature.cases import (
    CURVATURES,
    LIKELIHOODS,
    curvature,
    library,
    mlp,
    supervised,
)
from tests.curvature.tools import distance
from tests.curvature.written import one_layer
from tests.selection import slow_but

pytestmark = pytest.mark.usefixtures("x64")
# The draws of the sampled Fisher depend on the position in the batch, so these laws hold only in
# expectation. test_sampled_fisher.py tests its expectation.
FIXED = [name for name in CURVATURES if name not in ("true_fisher", "identity")]


def matrix(metric, objective, model, batch):
    """C, from a compiled program."""

    @eqx.filter_jit
    def compiled(model, batch):
        return metric.operator(objective.linearise(model, batch)).as_matrix()

    return np.asarray(compiled(model, batch))


def agree(actual, expected, tolerance=1e-12):
    return distance(actual, expected) <= tolerance


# The batch.


@eqx.filter_jit
def compiled(names, model, batch):
    linearisation = cv.Supervised(cv.Categorical()).linearise(model, batch)
    return [curvature(n, "categorical").operator(linearisation).as_matrix() for n in names]


@pytest.mark.parametrize(
    "names", [("empirical_fisher",), pytest.param(tuple(FIXED), marks=pytest.mark.slow)]
)
def test_a_curvature_is_the_mean_over_its_examples(names):
    case = supervised(mlp(jnp.tanh), "categorical")

    def of_examples(*indices):
        batch = jax.tree.map(lambda leaf: leaf[jnp.asarray(indices)], case.batch)
        return np.asarray(compiled(names, case.model, batch))

    whole = of_examples(0, 1, 2, 3, 4)
    every = zip(whole, of_examples(0), of_examples(1, 2, 3, 4), strict=True)
    for of_all, first, rest in every:  # unequal parts average to the whole
        assert agree((first + 4 * rest) / 5, of_all)
        assert not agree((first + rest) / 2, of_all, 1e-3)
    # The order of the examples has no effect. Copies of one example have the C of this example.
    assert all(map(agree, of_examples(3, 0, 4, 2, 1), whole))
    assert all(map(agree, of_examples(0, 0, 0, 0, 0), of_examples(0)))


def test_first_examples_with_at_least_the_whole_batch_is_the_same_program():
    """`FirstExamples` does not change the program in this case, so it costs nothing."""
    case, whole = supervised(one_layer(), "categorical"), cv.ExactFisher()

    def program(curvature):
        def product(model):
            here = case.objective.linearise(model, case.batch)
            return curvature.operator(here).mv(here.grad)

        shapes = eqx.filter(case.model, eqx.is_array)
        return jax.jit(product).lower(shapes).as_text()

    assert program(whole) == program(cv.FirstExamples(whole, 5))
    assert program(whole) == program(cv.FirstExamples(whole, 100))
    assert program(whole) != program(cv.FirstExamples(whole, 4))


# Terms. The case `several_terms` tests their weighted sum.

BOTH = [cv.GaussNewton(), cv.EmpiricalFisher()]


@pytest.mark.parametrize("metric", slow_but(BOTH[:1], BOTH))
def test_a_term_of_weight_zero_has_no_effect(metric):
    """C for terms of weights 0.7 and 0 is C of the first term alone."""
    model, call = eqx.nn.Linear(3, 3, key=jax.random.key(0)), lambda model, x: model(x)
    one, other = supervised(model, "gaussian"), supervised(model, "categorical", n=3)
    term = cv.Term(call, library("gaussian"), weight=0.7)
    both = cv.Objective({"a": term, "b": cv.Term(call, library("categorical"), weight=0.0)})
    expected = matrix(metric, cv.Objective({"a": term}), model, {"a": one.batch})
    assert agree(matrix(metric, both, model, {"a": one.batch, "b": other.batch}), expected)


# Relations between curvatures.


class NllAlone(cv.AbstractLoss):
    """The loss of a likelihood, without its closed forms."""

    likelihood: cv.AbstractLikelihood

    def nll(self, z: Array, y: Array) -> Array:
        return self.likelihood.nll(z, y)


@pytest.mark.parametrize("likelihood", slow_but(["categorical"], LIKELIHOODS))
def test_the_fisher_is_gauss_newton_and_the_hessian_of_the_divergences(likelihood):
    """The outputs of the three likelihoods are natural parameters up to a constant factor."""
    case, loss = supervised(mlp(jnp.tanh), likelihood), library(likelihood)
    by_autodiff = cv.Supervised(NllAlone(loss))

    @eqx.filter_jit
    def matrices(model, batch):
        here = case.objective.linearise(model, batch)
        metrics = {
            "fisher": cv.ExactFisher(),
            "closed form": cv.GaussNewton(),
            "KL": cv.Divergence(cv.KL(loss)),
            "Hellinger": cv.Divergence(cv.SquaredHellinger(loss)),
            "empirical": cv.EmpiricalFisher(),
        }
        found = {name: metric.operator(here).as_matrix() for name, metric in metrics.items()}
        alone = cv.GaussNewton().operator(by_autodiff.linearise(model, batch))
        return {**found, "autodiff": alone.as_matrix()}

    found = matrices(case.model, case.batch)
    assert agree(found["closed form"], found["fisher"])
    assert agree(found["autodiff"], found["fisher"], 1e-10)
    assert agree(found["KL"], found["fisher"], 1e-10)
    assert agree(4 * found["Hellinger"], found["fisher"], 1e-10)
    assert not agree(found["empirical"], found["fisher"], 0.1)


# Gauss–Newton and the Hessian.


def hessian(case):
    """∇²L in the flat weights by autodiff, for the loss of `dense`, without the library."""
    params, static = eqx.partition(case.model, eqx.is_inexact_array)
    flat, unravel = jfu.ravel_pytree(params)
    return jax.jit(
        jax.hessian(lambda flat: dense.loss(case.terms, eqx.combine(unravel(flat), static)))
    )(flat)


@pytest.mark.parametrize("likelihood", slow_but(["categorical"], LIKELIHOODS))
def test_gauss_newton_of_a_linear_model_is_the_hessian(likelihood):
    case = supervised(eqx.nn.Linear(3, 3, key=jax.random.key(0)), likelihood)
    found = matrix(cv.GaussNewton(), case.objective, case.model, case.batch)
    assert agree(found, hessian(case))


@pytest.mark.parametrize("likelihood", slow_but(["categorical"], LIKELIHOODS))
def test_gauss_newton_of_a_piecewise_linear_net_is_the_hessian_within_each_layer(likelihood):
    """The outputs are linear in the weights of one layer, but not in those of two layers."""
    case = supervised(mlp(jax.nn.relu), likelihood)
    found = matrix(cv.GaussNewton(), case.objective, case.model, case.batch)
    expected = np.asarray(hessian(case))
    ends = np.cumsum([layer.weight.size + layer.bias.size for layer in case.model.layers])
    blocks = [slice(end - size, end) for end, size in zip(ends, np.diff(ends, prepend=0))]
    for block in blocks:
        assert agree(found[block, block], expected[block, block])
    assert not agree(found[blocks[0], blocks[1]], expected[blocks[0], blocks[1]], 0.01)
