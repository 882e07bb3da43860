"""The sampled Fisher: its draws, its expectation and its error."""

import functools

import equinox as eqx
import jax
import numpy as np
import pytest

import curvature as cv
from tests.curvature import dense
from tests.curvature.cases import LIKELIHOODS, supervised
from tests.selection import slow_but

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(5)
# The number of independent operators in a mean.
N = 2000


def net():
    """A linear model with 2 inputs, 3 outputs and 9 weights."""
    return eqx.nn.Linear(2, 3, key=jax.random.key(0))


def case(likelihood, n=4):
    return supervised(net(), likelihood, inputs=(2,), n=n)


def part(batch, selection):
    return jax.tree.map(lambda leaf: leaf[selection], batch)


@eqx.filter_jit
def drawn(objective, model, batch, key, samples=3):
    """√k S, [n, c, k], of the first term; its columns are ∇nll at the drawn targets."""
    linearisation = objective.linearise(model, batch)
    operator = cv.SampledFisher(samples=samples).operator(linearisation, key=key)
    return operator.factors[0].matrix * samples**0.5


@pytest.mark.parametrize("likelihood", slow_but(["categorical"], LIKELIHOODS))
def test_a_draw_does_not_depend_on_other_examples_or_on_the_targets(likelihood):
    """A draw depends on the key, on the example and its position, and on the number of the sample.

    It does not depend on the size of the batch, on other examples, or on the targets of the data.
    """
    c = case(likelihood, n=7)
    inputs, targets = c.batch

    def draws(inputs, targets, key=KEY):
        return np.asarray(drawn(c.objective, c.model, (inputs, targets), key))

    whole, others = draws(inputs, targets), (inputs.at[1:].multiply(3), targets)
    copied = draws(*part(c.batch, np.zeros(7, int)))
    assert not np.allclose(whole, draws(inputs, targets, jax.random.key(6)))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-14)
    close(whole[:4], draws(inputs[:4], targets[:4]))
    close(whole[0], draws(*others)[0])
    np.testing.assert_array_equal(whole, draws(inputs, targets[::-1]))
    assert len(np.unique(copied[:, :, 0], axis=0)) > 1
    assert any(len(np.unique(copied[i], axis=1).T) > 1 for i in range(7))


@pytest.mark.parametrize("likelihood", slow_but(["categorical"], ["categorical", "bernoulli"]))
def test_columns_are_the_scores_of_possible_targets(likelihood):
    c = case(likelihood)
    found = drawn(c.objective, c.model, c.batch, KEY)
    values = c.terms[0].values(c.model)
    _, scores = jax.jit(jax.vmap(lambda z: dense.scores(LIKELIHOODS[likelihood], z)))(values)
    for possible, columns in zip(scores, found, strict=True):
        gaps = np.linalg.norm(np.asarray(columns.T)[:, None] - np.asarray(possible)[None], axis=-1)
        assert np.all(gaps.min(axis=1) < 1e-14)


def test_terms_have_different_draws():
    c = case("gaussian")
    term = cv.Term(lambda model, x: model(x), cv.Gaussian())
    objective = cv.Objective(terms={"a": term, "b": term})

    @eqx.filter_jit
    def factors(model, batch):
        linearisation = objective.linearise(model, {"a": batch, "b": batch})
        return cv.SampledFisher().operator(linearisation, key=KEY).factors

    first, second = factors(c.model, c.batch)
    assert not np.any(first.matrix == second.matrix)


# The mean and the error, against the exact moments of one draw, as sums over all outcomes.


@functools.cache
def moments(likelihood):
    """The mean C [P, P] of an estimate from one sample, and the variance of each entry.

    C = 1/n Σ_i E[a aᵀ] with a = J_iᵀ g. The draws of different examples are independent, so the
    variance of an entry is 1/n² Σ_i (E[a_p² a_q²] − E[a_p a_q]²).
    """
    c = case(likelihood)
    (term,) = c.terms
    J, z = eqx.filter_jit(lambda m: (term.jacobians(m, c.trainable), term.values(m)))(c.model)
    n, mean, variance = len(z), 0.0, 0.0
    ps, scores = jax.jit(jax.vmap(lambda z: dense.scores(LIKELIHOODS[likelihood], z)))(z)
    for i in range(n):
        p, g = np.asarray(ps[i]), np.asarray(scores[i])
        a = g @ np.asarray(J[i])
        first = np.einsum("m,mp,mq->pq", p, a, a)
        mean += first / n
        variance += (np.einsum("m,mp,mq->pq", p, a**2, a**2) - first**2) / n**2
    return mean, variance


@functools.cache
def estimates(likelihood, samples):
    """N dense matrices [N, P, P], each with its own key."""
    with jax.enable_x64(True):
        c = case(likelihood)

        @eqx.filter_jit
        def one_each(model, batch, keys):
            linearisation = c.objective.linearise(model, batch)
            metric = cv.SampledFisher(samples=samples)
            return jax.vmap(lambda key: metric.operator(linearisation, key=key).as_matrix())(keys)

        keys = jax.random.split(jax.random.key(samples), N)
        return np.asarray(one_each(c.model, c.batch, keys))


@pytest.mark.parametrize("likelihood", slow_but(["categorical"], LIKELIHOODS))
def test_the_mean_is_the_exact_fisher(likelihood):
    """Each of the 45 entries is within 5 standard errors √(variance/4N).

    A correct estimate fails by chance with a probability of 1 in 40,000.
    """
    mean, variance = moments(likelihood)
    gap = np.abs(estimates(likelihood, 4).mean(axis=0) - mean)
    assert np.all(gap <= 5 * np.sqrt(variance / (4 * N)) + 1e-14)


@pytest.mark.parametrize("samples", slow_but([4], [1, 4, 16]))
@pytest.mark.parametrize("likelihood", slow_but(["categorical"], LIKELIHOODS))
def test_the_error_falls_as_one_over_the_root_of_samples(likelihood, samples):
    """E‖Ĉ − C‖² is the sum of the variances of all entries, divided by the number k of samples.

    The mean of N squared errors is within 5 of its standard errors.
    """
    mean, variance = moments(likelihood)
    squared = np.sum((estimates(likelihood, samples) - mean) ** 2, axis=(1, 2))
    expected = variance.sum() / samples
    deviation = squared.std(ddof=1) / np.sqrt(N)
    assert abs(squared.mean() - expected) <= 5 * deviation
    assert deviation < expected / 20


# Errors.


def test_a_key_is_needed():
    c = case("categorical")

    def make(model, batch):
        cv.SampledFisher().operator(c.objective.linearise(model, batch))

    with pytest.raises(ValueError, match=r"`SampledFisher` draws targets and needs a key"):
        eqx.filter_eval_shape(make, c.model, c.batch)
