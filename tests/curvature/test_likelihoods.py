"""Likelihoods against sums over all outcomes, against NumPy, and against their own samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
from tests.curvature import dense
from tests.curvature.cases import LIKELIHOODS, library, targets


def outputs(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_number_is_that_of_the_definition(x64, name):
    """The outputs have one row or two rows, whose losses are added."""
    likelihood, distribution = library(name), LIKELIHOODS[name]

    @jax.jit
    def numbers(z, z2, y):
        S, thin = likelihood.fisher_factor(z).as_matrix(), likelihood.thin_fisher_factor(z)
        covered = thin.mv(likelihood.fisher_coefficients(z, y).values)
        thin = thin.as_matrix()
        score, fisher = jax.grad(distribution.nll)(z, y), dense.exact_fisher(distribution)(z, y)
        t = likelihood.sample(z, key=jax.random.key(0))
        pairs = {
            "loss": (likelihood.nll(z, y), distribution.nll(z, y)),
            "gradient": (jax.grad(likelihood.nll)(z, y), score),
            "S ρ": (covered, score.ravel()),
            "Fisher": (S @ S.T, fisher),
            "thin factor": (thin @ thin.T, fisher),
            "Hessian": (S @ S.T, dense.gauss_newton(distribution)(z, y)),
            "KL": (likelihood.kl(z, z2), distribution.kl(z, z2)),
            "Hellinger": (
                likelihood.squared_hellinger(z, z2),
                distribution.squared_hellinger(z, z2),
            ),
        }
        same = likelihood.kl(z, z), likelihood.squared_hellinger(z, z)
        return pairs, same, S, thin, t, likelihood.nll(z, t)

    for shape in ((3,), (2, 3)):
        y = targets(name, np.random.default_rng(1), 1, shape)[0]
        pairs, same, S, thin, t, of_sample = numbers(outputs(shape), outputs(shape, seed=2), y)
        for key, (found, expected) in pairs.items():
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14, err_msg=key)
        assert min(pairs["KL"][1], pairs["Hellinger"][1]) > 0.01
        assert np.abs(same).max() < 1e-15
        fewer = np.prod(shape[:-1]) if name == "categorical" else 0
        assert S.shape == 2 * (np.prod(shape),)
        assert thin.shape == (len(S), len(S) - fewer)
        assert t.shape == y.shape
        assert np.isfinite(of_sample)


N = 4000


def samples(name, z):
    keys = jax.random.split(jax.random.key(0), N)
    return np.asarray(jax.jit(jax.vmap(lambda key: library(name).sample(z, key=key)))(keys))


@pytest.mark.parametrize(("name", "shape"), [("categorical", (2, 3)), ("bernoulli", (3,))])
def test_frequencies_of_samples(x64, name, shape):
    """The frequency of each outcome in N samples is within 5 binomial standard errors of p."""
    z = outputs(shape)
    p, outcomes = map(np.asarray, jax.jit(LIKELIHOODS[name].outcomes)(z))
    same = samples(name, z).reshape(N, 1, -1) == outcomes.reshape(1, len(p), -1)
    share = np.mean(np.all(same, axis=-1), axis=0)
    assert share.sum() == pytest.approx(1)
    assert np.all(np.abs(share - p) <= 5 * np.sqrt(p * (1 - p) / N))


def test_moments_of_gaussian_samples(x64):
    """Mean and covariance are within 5 standard errors.

    The squared standard errors are σ²/N, and σ⁴/N off and 2σ⁴/N on the diagonal.
    """
    z, variance = outputs((3,)), LIKELIHOODS["gaussian"].variance
    noise = samples("gaussian", z) - np.asarray(z)
    assert np.all(np.abs(noise.mean(axis=0)) <= 5 * np.sqrt(variance / N))
    error = np.abs(noise.T @ noise / N - variance * np.eye(3))
    assert np.all(error <= 5 * variance * np.sqrt((1 + np.eye(3)) / N))


def test_probability_vectors_and_booleans_as_targets(x64):
    z, nll = outputs((2, 3)), jax.jit(cv.Categorical().nll)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    for y in (np.eye(3)[[2, 0]], np.asarray([[0.2, 0.5, 0.3], [0.0, 0.9, 0.1]])):
        np.testing.assert_allclose(nll(z, y), -np.sum(y * np.log(p)), rtol=1e-14)
    flags = np.asarray([True, False])
    assert nll(z[:, :2], flags) == nll(z[:, :2], flags.astype(int))


def test_probability_vectors_may_be_of_another_dtype():
    y = jnp.asarray([0.25, 0.25, 0.5], jnp.bfloat16)
    assert cv.Categorical().nll(jnp.zeros(3), y) == pytest.approx(np.log(3), rel=1e-6)


EXTREME = {
    "categorical": ([1e4, -1e4, 0.0], 1),
    "bernoulli": ([1e4, -1e4, 0.0], [0.0, 1.0, 0.5]),
    "gaussian": ([1e4, -1e4, 0.0], [0.0, 0.0, 0.0]),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_extreme_outputs_are_finite_in_float32(name):
    values, y = EXTREME[name]
    lik = library(name)

    @jax.jit
    def numbers(z, z2, y):
        return [
            lik.nll(z, y),
            jax.grad(lik.nll)(z, y),
            lik.fisher_factor(z).as_matrix(),
            lik.kl(z, z2),
            lik.squared_hellinger(z, z2),
            jax.grad(lik.kl, argnums=1)(z, z2),
            jax.hessian(lik.kl, argnums=1)(z, z),
            jax.hessian(lik.squared_hellinger, argnums=1)(z, z),
            lik.sample(z, key=jax.random.key(0)),
        ]

    for number in numbers(jnp.asarray(values), jnp.asarray(values[::-1]), jnp.asarray(y)):
        assert np.all(np.isfinite(number))
        assert number.dtype == jnp.float32 or jnp.issubdtype(number.dtype, jnp.integer)


def test_the_loss_of_extreme_outputs(x64):
    """For extreme logits softplus and logsumexp are the difference between the logits."""
    z = jnp.asarray([1e4, -1e4, 0.0])
    assert cv.Categorical().nll(z, jnp.asarray(1)) == 2e4
    assert cv.Bernoulli().nll(z, jnp.asarray([0.0, 1.0, 0.0])) == pytest.approx(2e4 + np.log(2))
    assert cv.Bernoulli().nll(z, jnp.asarray([1.0, 0.0, 0.0])) == pytest.approx(np.log(2))


@pytest.mark.parametrize("logit", [-30.0, 30.0])
def test_the_bernoulli_factor_of_a_confident_output_in_float32(logit):
    """√(p(1−p)) ≈ e^(−15). With 1 − p, which rounds to 0, the factor would be 0."""
    S = cv.Bernoulli().fisher_factor(jnp.asarray([logit])).as_matrix()
    assert pytest.approx(np.exp(-15.0), rel=1e-5) == S


# softplus(z') − softplus(z) cancels at positive logits: each is z up to e^(−z).
def test_kl_of_confident_outputs_in_float32():
    """KL is accurate, and has the same value for a bit and its complement."""
    z, z2 = jnp.asarray([12.0]), jnp.asarray([11.0])
    expected = 1 / (1 + np.exp(-12)) * 1 + np.logaddexp(0, 11) - np.logaddexp(0, 12)
    assert cv.Bernoulli().kl(-z, -z2) == pytest.approx(expected, rel=1e-5)
    assert cv.Bernoulli().kl(z, z2) == pytest.approx(expected, rel=1e-5)


# Errors.


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("name", "z", "y", "sentence"),
    [
        ("categorical", (3,), jnp.zeros(2, int), r"one logit per class"),
        ("categorical", (2, 3), jnp.zeros((), int), r"shape \(2, 3\) and labels of shape \(\)"),
        ("bernoulli", (3,), jnp.zeros(2), r"`Bernoulli\(\).nll\(z, y\)`.*\(3,\).*\(2,\)"),
        ("gaussian", (1,), jnp.zeros(()), r"`Gaussian\(\).nll\(z, y\)`.*\(1,\).*\(\)"),
    ],
)
def test_a_target_of_another_shape_is_refused(name, z, y, sentence):
    with pytest.raises(ValueError, match=sentence):
        library(name).nll(jnp.zeros(z), y)


def test_a_variance_may_be_traced(x64):
    """The variance may be a hyper-parameter for a derivative or for `vmap`."""
    z, y = outputs((3,)), outputs((3,), 1)
    losses = jax.vmap(lambda variance: cv.Gaussian(variance).nll(z, y))(jnp.asarray([1.0, 2.0]))
    assert np.isclose(losses[0], 2 * losses[1], rtol=1e-14)
