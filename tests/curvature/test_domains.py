"""Targets outside the domain of a likelihood: an error outside of `jit`, and NaN inside."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv

INF, NAN = np.inf, np.nan
POLICY = cv.PolicyGradient(cv.Categorical())
f32, bf16 = jnp.float32, jnp.bfloat16


def arrays(dtype, inside, outside=()):
    """Two arrays: targets inside a domain, and targets outside."""
    inside = np.asarray(inside, dtype)
    return inside, np.asarray(outside, dtype).reshape(len(outside), *inside.shape[1:])


# Likelihood, shape of z, targets inside the domain, targets outside.
TABLE = {
    "labels": (cv.Categorical(), (3,), *arrays(int, [0, 2], [-1, 3, 1000])),
    "small labels": (cv.Categorical(), (300,), *arrays(np.uint8, [0, 255])),
    "bool labels": (cv.Categorical(), (2,), *arrays(bool, [True, False])),
    "bool labels of one class": (cv.Categorical(), (1,), *arrays(bool, [False], [True])),
    "rows of labels": (
        *(cv.Categorical(), (2, 3)),
        *arrays(int, [[0, 2], [1, 1]], [[0, 3], [-1, 0]]),
    ),
    "probabilities": (
        *(cv.Categorical(), (2,)),
        *arrays(
            f32,
            [[0.25, 0.75], [-1e-4, 1.0], [0.5, 0.5003]],
            [[0.5, 0.501], [-0.5, 1.5], [0, 0], [NAN, 1], [INF, 0], [2, 2]],
        ),
    ),
    "probabilities in half precision": (
        *(cv.Categorical(), (3,)),
        *arrays(bf16, [[0.2, 0.3, 0.5], [0.05, 0, 1]], [[0.2, 0.3, 0.3], [0.2, 0, 1]]),
    ),
    "smoothed": (cv.Categorical(smoothing=0.1), (3,), *arrays(int, [0, 2], [-1, 3])),
    "bernoulli": (
        *(cv.Bernoulli(), (2,)),
        *arrays(f32, [[0, 1], [0.5, 0.1]], [[0, 1.001], [-0.1, 0], [NAN, 0], [0, INF]]),
    ),
    "bits": (cv.Bernoulli(), (2,), *arrays(bool, [[True, False]])),
    "bytes": (cv.Bernoulli(), (2,), *arrays(int, [[0, 1]], [[0, 255]])),
    "gaussian": (
        *(cv.Gaussian(0.5), (2,)),
        *arrays(f32, [[-1e3, 2]], [[0, NAN], [INF, 0], [0, -INF]]),
    ),
    "policy": (
        *(POLICY, (3,)),
        *zip(arrays(int, [0, 2], [3, 0, 1]), arrays(f32, [-1.5, 0], [1, NAN, INF])),
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_a_target_outside_of_the_domain_is_refused_and_nan_in_value_and_gradient(name):
    likelihood, shape, inside, outside = TABLE[name]
    z = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)

    @jax.jit
    @jax.vmap
    def numbers(y):
        value, grad = jax.value_and_grad(likelihood.nll)(z, y)
        domain = likelihood.in_domain(z, y)
        if isinstance(likelihood, cv.AbstractExponentialFamily):
            rho = jnp.sum(likelihood.fisher_coefficients(z, y).values)
        else:
            rho = value
        return domain, jnp.isfinite(value), jnp.isfinite(grad).all(), jnp.isfinite(rho)

    # Outside the domain neither the value nor the whole gradient may be finite.
    both = jax.tree.map(lambda a, b: np.concatenate([a, b]), inside, outside)
    n, bad = (len(jax.tree.leaves(targets)[0]) for targets in (inside, outside))
    for found in numbers(both):
        assert found[:n].all()
        assert not found[n:].any()
    likelihood.check_targets(shape, inside)
    if bad:
        sentence = rf"`{type(likelihood).__name__}` needs .*the test part .* example {n} is "
        with pytest.raises(ValueError, match=sentence):
            likelihood.check_targets(shape, both, source="the test part")


@pytest.mark.parametrize("n", [0, 1, 4096, 4097, 10_000])
def test_the_first_wrong_target_is_named(n):
    labels = np.zeros(n, np.int32)
    cv.Categorical().check_targets((3,), labels)
    if not n:
        return
    labels[[n // 2, n - 1]] = 7
    with pytest.raises(ValueError, match=rf"from \d to 7: the target of example {n // 2} is 7\."):
        cv.Categorical().check_targets((3,), labels)


def test_a_long_target_is_shown_by_its_range():
    with pytest.raises(ValueError, match=r"of shape \(10,\), from 0 to 2, of sum 2\.$"):
        cv.Bernoulli().check_targets((10,), np.asarray([[0.0] * 9 + [2.0]]))


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("likelihood", [cv.Categorical(), cv.Bernoulli(), cv.Gaussian()])
def test_complex_targets_are_refused(likelihood):
    y = np.asarray([[1 + 2j, 0]], np.complex64)
    for refuse in (
        lambda: likelihood.nll(jnp.zeros(2), y[0]),
        lambda: likelihood.in_domain(jnp.zeros(2), y[0]),
        lambda: likelihood.check_targets((2,), y),
    ):
        with pytest.raises(
            ValueError, match=r"takes a real target, got complex64\. Use two outputs"
        ):
            refuse()
    with pytest.raises(ValueError, match=r"takes a real target, got complex64"):
        POLICY.nll(jnp.zeros(2), (jnp.asarray(1), jnp.asarray(1j, jnp.complex64)))


class OnlyNll(cv.AbstractLoss):
    """A loss with `nll` alone, the only required method."""

    def nll(self, z, y):
        return jnp.sum((z - y) ** 2)


class Counts(OnlyNll):
    """A loss that also has `in_domain`."""

    def in_domain(self, z, y):
        return jnp.all(y >= 0)


def test_a_loss_of_ones_own_needs_nll_alone():
    z, y = jnp.zeros(2), jnp.asarray([NAN, 1.0])
    assert OnlyNll().in_domain(z, y)
    assert OnlyNll().metrics() == ()
    assert OnlyNll().unmasked(z, y).mask is None
    OnlyNll().check_targets((2,), np.asarray([[NAN, 1.0]]))


def test_a_loss_of_ones_own_may_define_its_domain():
    Counts().check_targets((2,), np.asarray([[0, 1.0]]))
    with pytest.raises(ValueError, match=r"`Counts` needs targets for which its `in_domain` is tr"):
        Counts().check_targets((2,), np.asarray([[0, -1.0]]))


class TestSmoothing:
    def test_the_target_is_mixed_with_the_uniform_one(self, x64):
        z = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)))
        labels = jnp.asarray([2, 0])
        soft = jnp.asarray([[0.2, 0.5, 0.3], [0.0, 0.9, 0.1]])
        smooth = cv.Categorical(smoothing=0.1)

        @jax.jit
        def numbers(z, y):
            value, grad = jax.value_and_grad(smooth.nll)(z, y)
            S = smooth.thin_fisher_factor(z)
            return value, grad, S.mv(smooth.fisher_coefficients(z, y).values)

        p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
        for y, vector in ((labels, np.eye(3)[np.asarray(labels)]), (soft, np.asarray(soft))):
            target = 0.9 * vector + 0.1 / 3
            value, grad, covered = numbers(z, y)
            np.testing.assert_allclose(value, -np.sum(target * np.log(p)), rtol=1e-13)
            np.testing.assert_allclose(grad, p - target, atol=1e-14)
            np.testing.assert_allclose(covered, np.ravel(p - target), atol=1e-14)

    def test_the_distribution_is_not_smoothed(self):
        z = jnp.asarray([[0.3, -1.0]])

        def numbers(likelihood):
            return likelihood.sample(z, key=jax.random.key(0)), likelihood.kl(z, -z)

        plain, smooth = jax.jit(
            lambda: (numbers(cv.Categorical()), numbers(cv.Categorical(smoothing=0.2)))
        )()
        assert plain == smooth

    def test_a_traced_number_is_refused(self, as_installed):
        with pytest.raises(ValueError, match=r"known before tracing"):
            jax.jit(lambda a: cv.Categorical(a).nll(jnp.zeros(2), jnp.asarray(0)))(0.1)


def test_the_objective_refuses_a_wrong_target_outside_of_jit():
    objective, model = cv.Supervised(cv.Categorical()), eqx.nn.Linear(3, 2, key=jax.random.key(0))
    batch = np.ones((4, 3), np.float32), np.array([0, 1, 2, 0])
    for entry in (objective.loss, objective.linearise):
        with pytest.raises(ValueError, match="the target of example 2 is 2"):
            entry(model, batch)
    assert np.isnan(eqx.filter_jit(objective.loss)(model, batch))
