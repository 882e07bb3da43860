"""Likelihoods against enumeration, numpy, and their own samples."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
from tests.curvature import dense
from tests.curvature.cases import LIKELIHOODS, library, targets

SHAPES = [(3,), (2, 3)]


def outputs(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def factor(likelihood, z):
    return jax.jit(lambda z: likelihood.fisher_factor(z).as_matrix())(z)


def target(likelihood, shape):
    return targets(likelihood, np.random.default_rng(1), 1, shape)[0]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", LIKELIHOODS)
class TestDefinition:
    def test_nll(self, name, shape):
        z, y = outputs(shape), target(name, shape)
        assert np.isclose(library(name).nll(z, y), LIKELIHOODS[name].nll(z, y), rtol=1e-13)

    def test_gradient(self, name, shape):
        z, y = outputs(shape), target(name, shape)
        expected = {
            "categorical": lambda: jax.nn.softmax(z) - np.eye(3)[np.asarray(y)],
            "bernoulli": lambda: 1 / (1 + np.exp(-z)) - y,
            "gaussian": lambda: (z - y) / LIKELIHOODS["gaussian"].variance,
        }[name]()
        assert np.allclose(jax.grad(library(name).nll)(z, y), expected, rtol=1e-12, atol=1e-14)

    def test_fisher_factor(self, name, shape):
        z = outputs(shape)
        S = factor(library(name), z)
        expected = jax.jit(dense.exact_fisher(LIKELIHOODS[name]))(z, target(name, shape))
        assert S.shape == (z.size, z.size)
        assert np.allclose(S @ S.T, expected, rtol=1e-12, atol=1e-14)

    def test_fisher_factor_is_a_factor_of_the_hessian(self, name, shape):
        z, y = outputs(shape), target(name, shape)
        S = factor(library(name), z)
        expected = jax.jit(dense.gauss_newton(LIKELIHOODS[name]))(z, y)
        assert np.allclose(S @ S.T, expected, rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("divergence", ["kl", "squared_hellinger"])
    def test_divergence(self, name, shape, divergence):
        z, z2 = outputs(shape), outputs(shape, seed=2)
        of_library = getattr(library(name), divergence)
        expected = getattr(LIKELIHOODS[name], divergence)(z, z2)
        assert expected > 0.01
        assert np.isclose(of_library(z, z2), expected, rtol=1e-12)
        assert abs(of_library(z, z)) < 1e-15

    def test_sample_has_the_form_of_a_target(self, name, shape):
        z = outputs(shape)
        t = library(name).sample(z, key=jax.random.key(0))
        assert t.shape == target(name, shape).shape
        assert np.isfinite(library(name).nll(z, t))


@pytest.mark.parametrize("name", ["categorical", "bernoulli"])
def test_frequencies_of_samples(x64, name):
    """Each outcome's share of N samples is within 5 binomial standard errors of p."""
    z = outputs((2, 3)) if name == "categorical" else outputs((3,))
    N = 4000
    keys = jax.random.split(jax.random.key(0), N)
    drawn = np.asarray(jax.vmap(lambda key: library(name).sample(z, key=key))(keys))
    p, outcomes = map(np.asarray, LIKELIHOODS[name].outcomes(z))
    same = drawn.reshape(N, 1, -1) == outcomes.reshape(1, len(p), -1)
    share = np.mean(np.all(same, axis=-1), axis=0)
    assert share.sum() == pytest.approx(1)
    assert np.all(np.abs(share - p) <= 5 * np.sqrt(p * (1 - p) / N))


def test_moments_of_gaussian_samples(x64):
    """Mean and covariance within 5 standard errors: σ²/N, and σ⁴/N (2σ⁴/N on the diagonal)."""
    z, variance, N = outputs((3,)), LIKELIHOODS["gaussian"].variance, 4000
    keys = jax.random.split(jax.random.key(0), N)
    drawn = jax.vmap(lambda key: library("gaussian").sample(z, key=key))(keys)
    noise = np.asarray(drawn) - np.asarray(z)
    assert np.all(np.abs(noise.mean(axis=0)) <= 5 * np.sqrt(variance / N))
    error = np.abs(noise.T @ noise / N - variance * np.eye(3))
    assert np.all(error <= 5 * variance * np.sqrt((1 + np.eye(3)) / N))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_kl_is_not_negative(x64, name):
    kl, hellinger = map(eqx.filter_jit, (library(name).kl, library(name).squared_hellinger))
    for seed in range(20):
        z, z2 = outputs((4,), seed), outputs((4,), seed + 100)
        assert kl(z, z2) > 0
        assert 0 < hellinger(z, z2) < 1


class TestCategorical:
    def test_probability_vectors_as_targets(self, x64):
        z, lik = outputs((2, 3)), cv.Categorical()
        y = jnp.asarray([2, 0])
        assert np.isclose(lik.nll(z, jax.nn.one_hot(y, 3)), lik.nll(z, y), rtol=1e-14)
        mixed = jnp.asarray([[0.2, 0.5, 0.3], [0.0, 0.9, 0.1]])
        log_p = np.log(np.exp(z) / np.exp(z).sum(axis=1, keepdims=True))
        assert np.isclose(lik.nll(z, mixed), -np.sum(mixed * log_p), rtol=1e-14)

    def test_probability_vectors_may_be_of_another_dtype(self):
        y = jnp.asarray([0.25, 0.25, 0.5], jnp.bfloat16)
        assert cv.Categorical().nll(jnp.zeros(3), y) == pytest.approx(np.log(3), rel=1e-6)

    def test_leading_axes_add_up(self, x64):
        z, y, lik = outputs((4, 2, 3)), target("categorical", (4, 2, 3)), cv.Categorical()
        one_by_one = sum(lik.nll(z[i, j], y[i, j]) for i in range(4) for j in range(2))
        assert np.isclose(lik.nll(z, y), one_by_one, rtol=1e-14)

    @pytest.mark.parametrize("label", [-1, 3, 1000])
    def test_a_label_out_of_range_is_nan(self, label):
        assert np.isnan(cv.Categorical().nll(jnp.zeros(3), jnp.asarray(label)))

    @pytest.mark.parametrize("label", [-1, 3])
    def test_one_label_out_of_range_is_not_lost_among_others(self, label):
        z, y = jnp.zeros((4, 3)), jnp.asarray([0, 1, label, 2])
        assert np.isnan(cv.Categorical().nll(z, y))

    def test_the_factor_has_one_rank_less_than_classes(self, x64):
        S = cv.Categorical().fisher_factor(outputs((4,))).as_matrix()
        assert np.linalg.matrix_rank(S) == 3


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
    """What softplus and logsumexp come to: the gap between the logits."""
    z = jnp.asarray([1e4, -1e4, 0.0])
    assert cv.Categorical().nll(z, jnp.asarray(1)) == 2e4
    assert cv.Bernoulli().nll(z, jnp.asarray([0.0, 1.0, 0.0])) == pytest.approx(2e4 + np.log(2))
    assert cv.Bernoulli().nll(z, jnp.asarray([1.0, 0.0, 0.0])) == pytest.approx(np.log(2))


@pytest.mark.parametrize("logit", [-30.0, 30.0])
def test_the_bernoulli_factor_of_a_sure_output_in_float32(logit):
    """√(p(1−p)) ≈ e^(−15), which 1 − p would round to 0."""
    S = cv.Bernoulli().fisher_factor(jnp.asarray([logit])).as_matrix()
    assert pytest.approx(np.exp(-15.0), rel=1e-5) == S


# softplus(z') − softplus(z) cancels at positive logits: both are z, and their gap e^(−z).
def test_kl_of_sure_outputs_in_float32():
    """KL to within rounding, and the same for a bit and its complement."""
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
        ("categorical", (3,), jnp.zeros(4), r"one target per output"),
        ("bernoulli", (3,), jnp.zeros(2), r"`Bernoulli\(\).nll\(z, y\)`.*\(3,\).*\(2,\)"),
        ("bernoulli", (3,), jnp.zeros(()), r"one target per output"),
        ("gaussian", (1,), jnp.zeros(()), r"`Gaussian\(\).nll\(z, y\)`.*\(1,\).*\(\)"),
        ("gaussian", (2, 3), jnp.zeros((3, 2)), r"one target per output"),
    ],
)
def test_a_target_of_another_shape_is_refused(name, z, y, sentence):
    with pytest.raises(ValueError, match=sentence):
        library(name).nll(jnp.zeros(z), y)


@pytest.mark.parametrize("variance", [0.0, -1.0, float("nan"), float("inf")])
def test_a_variance_that_is_none_is_refused(variance):
    with pytest.raises(ValueError, match=r"`Gaussian\(variance=...\)` must be a positive finite"):
        cv.Gaussian(variance=variance)


def test_a_variance_may_be_traced(x64):
    """As a hyper-parameter to differentiate or to `vmap` over."""
    z, y = outputs((3,)), outputs((3,), 1)
    losses = jax.vmap(lambda variance: cv.Gaussian(variance).nll(z, y))(jnp.asarray([1.0, 2.0]))
    assert np.isclose(losses[0], 2 * losses[1], rtol=1e-14)
