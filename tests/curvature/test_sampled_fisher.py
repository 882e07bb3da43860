"""The sampled Fisher: what it draws, and how near its mean is to the exact Fisher."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
from tests.curvature import dense
from tests.curvature.cases import LIKELIHOODS, supervised
from tests.selection import slow_but

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(5)
# How many operators a mean is taken over.
N = 2000


def net():
    """2 → 3 outputs, 9 weights."""
    return eqx.nn.Linear(2, 3, key=jax.random.key(0))


def case(likelihood, n=4):
    return supervised(net(), likelihood, inputs=(2,), n=n)


def part(batch, selection):
    return jax.tree.map(lambda leaf: leaf[selection], batch)


@eqx.filter_jit
def drawn(objective, model, batch, key, samples=3):
    """√k S, whose columns are ∇nll at the targets drawn: [n, c, k] for the first term."""
    linearisation = objective.linearise(model, batch)
    operator = cv.SampledFisher(samples=samples).operator(linearisation, key=key)
    return operator.factors[0].matrix * samples**0.5


@pytest.mark.parametrize("likelihood", slow_but(["categorical"], LIKELIHOODS))
class TestDraws:
    def test_same_key_same_draws(self, likelihood):
        c = case(likelihood)
        first, again, other = (
            drawn(c.objective, c.model, c.batch, key) for key in (KEY, KEY, jax.random.key(6))
        )
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_the_draw_of_an_example_is_its_own(self, likelihood):
        """Not that of the batch: a batch of 4 draws what the first 4 of 7 do."""
        c = case(likelihood, n=7)
        whole = drawn(c.objective, c.model, c.batch, KEY)
        first = drawn(c.objective, c.model, part(c.batch, slice(4)), KEY)
        assert np.allclose(whole[:4], first, rtol=1e-12, atol=1e-14)

    def test_nor_that_of_the_other_examples(self, likelihood):
        c = case(likelihood)
        inputs, targets = c.batch
        changed = (inputs.at[1:].multiply(3), targets)
        whole = drawn(c.objective, c.model, c.batch, KEY)
        first = drawn(c.objective, c.model, changed, KEY)
        assert np.allclose(whole[0], first[0], rtol=1e-12, atol=1e-14)

    def test_targets_of_the_data_are_of_no_account(self, likelihood):
        c = case(likelihood)
        inputs, targets = c.batch
        whole = drawn(c.objective, c.model, c.batch, KEY)
        assert np.array_equal(drawn(c.objective, c.model, (inputs, targets[::-1]), KEY), whole)

    def test_every_draw_is_of_a_place_and_a_sample(self, likelihood):
        """7 copies of one example do not all draw alike, nor do the samples of one."""
        c = case(likelihood)
        found = drawn(c.objective, c.model, part(c.batch, jnp.zeros(7, int)), KEY)
        assert len(np.unique(found[:, :, 0], axis=0)) > 1
        assert any(len(np.unique(found[i], axis=1).T) > 1 for i in range(7))


@pytest.mark.parametrize("likelihood", slow_but(["categorical"], ["categorical", "bernoulli"]))
def test_columns_are_the_scores_of_possible_targets(likelihood):
    c = case(likelihood)
    found = drawn(c.objective, c.model, c.batch, KEY)
    values = c.terms[0].values(c.model)
    _, scores = jax.jit(jax.vmap(lambda z: dense.scores(LIKELIHOODS[likelihood], z)))(values)
    for possible, columns in zip(scores, found, strict=True):
        gaps = np.linalg.norm(np.asarray(columns.T)[:, None] - np.asarray(possible)[None], axis=-1)
        assert np.all(gaps.min(axis=1) < 1e-14)


def test_terms_draw_apart():
    c = case("gaussian")
    term = cv.Term(lambda model, x: model(x), cv.Gaussian())
    objective = cv.Objective(terms={"a": term, "b": term})

    @eqx.filter_jit
    def factors(model, batch):
        linearisation = objective.linearise(model, {"a": batch, "b": batch})
        return cv.SampledFisher().operator(linearisation, key=KEY).factors

    first, second = factors(c.model, c.batch)
    assert not np.any(first.matrix == second.matrix)


def test_one_operator_does_not_draw_again():
    c = case("bernoulli")

    @eqx.filter_jit
    def make(model, batch):
        return cv.SampledFisher().operator(c.objective.linearise(model, batch), key=KEY)

    operator, vector = make(c.model, c.batch), eqx.filter(c.model, eqx.is_inexact_array)
    first, second = (jax.tree.leaves(operator.mv(vector)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


# The mean and the error, against the moments of one draw, from all outcomes.


@functools.cache
def moments(likelihood):
    """The mean C [P, P] of an estimate from one sample, and the variance of each entry.

    C = 1/n Σ_i E[a aᵀ], a = J_iᵀ g; draws of different examples being independent, the variance
    of an entry is 1/n² Σ_i (E[a_p² a_q²] − E[a_p a_q]²).
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
    """N dense matrices [N, P, P], each of a key of its own."""
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
    """Each of 45 entries within 5 standard errors √(variance/4N): by chance, once in 40,000."""
    mean, variance = moments(likelihood)
    gap = np.abs(estimates(likelihood, 4).mean(axis=0) - mean)
    assert np.all(gap <= 5 * np.sqrt(variance / (4 * N)) + 1e-14)


@pytest.mark.parametrize("likelihood", slow_but(["categorical"], LIKELIHOODS))
def test_the_empirical_fisher_is_not_within_that_error(likelihood):
    mean, variance = moments(likelihood)
    c = case(likelihood)
    (term,) = c.terms
    J = np.asarray(eqx.filter_jit(term.jacobians)(c.model, c.trainable))
    nll = LIKELIHOODS[likelihood].nll
    g = np.asarray(jax.jit(jax.vmap(jax.grad(nll)))(term.values(c.model), term.targets))
    rows = np.einsum("icp,ic->ip", J, g)
    gap = np.abs(rows.T @ rows / len(rows) - mean)
    assert np.any(gap > 20 * np.sqrt(variance / N))


@pytest.mark.parametrize("samples", slow_but([4], [1, 4, 16]))
@pytest.mark.parametrize("likelihood", slow_but(["categorical"], LIKELIHOODS))
def test_the_error_falls_as_one_over_the_root_of_samples(likelihood, samples):
    """E‖Ĉ − C‖² is the sum of the variances over k: the mean of N errors shows it, within 5
    standard errors of its own.
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
