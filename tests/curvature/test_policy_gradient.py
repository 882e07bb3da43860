"""The loss of a policy: the advantage weights its gradient, but not its Fisher."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
from tests.curvature.cases import curvature
from tests.selection import slow_but

pytestmark = pytest.mark.usefixtures("x64", "as_installed")

N = 6
OBJECTIVE = cv.Supervised(cv.PolicyGradient(cv.Categorical()))


@pytest.fixture
def model():
    return eqx.nn.Linear(3, 4, key=jax.random.key(0))


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    x, a = jnp.asarray(rng.normal(size=(N, 3))), jnp.asarray(rng.integers(4, size=N))
    return x, (a, jnp.asarray(rng.normal(size=N)))


def test_the_gradient_is_minus_the_policy_gradient(model, batch):
    """The gradient is −1/n Σ A ∇ log π(a | s); for a linear softmax −∇ log π = (p − e_a) sᵀ."""
    x, (a, advantages) = (np.asarray(batch[0]), tuple(map(np.asarray, batch[1])))
    weight, bias = np.asarray(model.weight), np.asarray(model.bias)
    z = np.exp(x @ weight.T + bias)
    p = z / z.sum(axis=1, keepdims=True)
    residual = advantages[:, None] * (p - np.eye(4)[a])
    grad = jax.jit(lambda: OBJECTIVE.linearise(model, batch).grad)()
    np.testing.assert_allclose(grad.weight, residual.T @ x / N, rtol=1e-10)
    np.testing.assert_allclose(grad.bias, residual.mean(axis=0), rtol=1e-10)


SAME = ["exact_fisher", "divergence", "divergence_hellinger", "true_fisher"]


@pytest.mark.parametrize("name", slow_but(["exact_fisher"], SAME))
def test_the_fisher_does_not_depend_on_the_advantages(model, batch, name):
    """Sampled targets are actions with advantage 1, drawn as for the policy's own likelihood."""
    x, (a, _) = batch
    metric, key = curvature(name, "categorical"), jax.random.key(2)
    policy = cv.Supervised(cv.Categorical())

    def both():
        return OBJECTIVE.linearise(model, batch), policy.linearise(model, (x, a))

    ours, plain = jax.jit(lambda: [metric.operator(z, key=key).as_matrix() for z in both()])()
    np.testing.assert_allclose(ours, plain, rtol=1e-9, atol=1e-12)


def test_pairs_and_single_targets_are_not_mistaken_for_each_other(model, batch):
    """Otherwise the two entries of a pair could count as the probabilities of two classes."""
    x, (a, advantages) = batch
    with pytest.raises(ValueError, match=r"`PolicyGradient\(policy\)\.nll\(z, y\)` takes a pair"):
        OBJECTIVE.loss(model, (x, a))
    for likelihood in (cv.Categorical(), cv.Bernoulli(), cv.Gaussian()):
        with pytest.raises(ValueError, match=r"takes one array as its target, got a tuple of 2\."):
            cv.Supervised(likelihood).loss(model, (x, (a, advantages)))
