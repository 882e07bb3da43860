"""The rank-one error: the outer product of the mean gradient is not the mean outer product.

ḡḡᵀ, with ḡ the gradient of the averaged loss, has rank one. Its undamped "natural gradient" is
ḡ/‖ḡ‖², which grows without bound as ḡ → 0. It is here as a control, and nowhere as a curvature.
"""

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import curvature as cv
from tests.selection import name_of, slow_but

DISTANCES = [1.0, 1e-2, 1e-4, 1e-6]  # from the minimum, along a fixed direction


class MeanGradientOuterProduct(cv.AbstractCurvature):
    """ḡḡᵀ: the wrong matrix."""

    def operator(self, linearisation, *, key=None):
        g, unravel = jfu.ravel_pytree(linearisation.grad)
        return lx.FunctionLinearOperator(
            lambda v: unravel(g * jnp.vdot(g, jfu.ravel_pytree(v)[0])),
            jax.eval_shape(lambda: linearisation.params),
            lx.positive_semidefinite_tag,
        )


def problem():
    """Logistic regression with overlapping classes, and its minimum by Newton's method."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 3))
    y = (x @ [1.0, -1.0, 0.5] + 2 * rng.standard_normal(200) > 0).astype(float)
    w = np.zeros(3)
    for _ in range(20):
        p = 1 / (1 + np.exp(-x @ w))
        w -= np.linalg.solve(x.T @ (x * (p * (1 - p))[:, None]), x.T @ (p - y))
    return (jnp.asarray(x), jnp.asarray(y)[:, None]), w


class Logistic(eqx.Module):
    w: jax.Array

    def __call__(self, x):
        return (x @ self.w)[None]


def step_norm(curvature, distance, damping):
    batch, minimum = problem()
    model = Logistic(jnp.asarray(minimum + distance * np.array([1.0, 0.5, -0.5])))
    opt = cv.NaturalGradient(
        cv.Supervised(cv.Bernoulli()), curvature=curvature, damping=damping, solver=lx.Cholesky()
    )
    new, _, info = opt.step(model, batch, opt.init(model), key=jax.random.key(0))
    assert info.accepted
    np.testing.assert_allclose(info.step_norm, np.linalg.norm(new.w - model.w), rtol=1e-6)
    return float(info.step_norm), float(info.grad_norm)


def test_control_the_outer_product_of_the_mean_gradient_blows_up(x64):
    """The nearer the minimum, the longer the step: ‖ḡ‖/(‖ḡ‖² + λ), up to 1/(2√λ)."""
    damping = 1e-16
    steps, gradients = zip(
        *(step_norm(MeanGradientOuterProduct(), distance, damping) for distance in DISTANCES)
    )
    expected = np.asarray(gradients) / (np.asarray(gradients) ** 2 + damping)
    np.testing.assert_allclose(steps, expected, rtol=1e-3)
    assert steps[0] > 1
    for nearer, farther in zip(steps[1:], steps):
        assert nearer > 50 * farther
    assert steps[-1] > 1e6


FISHERS = [cv.EmpiricalFisher(), cv.SampledFisher(samples=1), cv.ExactFisher()]


@pytest.mark.parametrize("curvature", slow_but(FISHERS[2:], FISHERS), ids=name_of)
def test_the_fishers_step_shrinks_with_the_distance(x64, curvature):
    steps, _ = zip(*(step_norm(curvature, distance, damping=0.0) for distance in DISTANCES))
    distances = np.asarray(DISTANCES) * np.linalg.norm([1.0, 0.5, -0.5])
    ratios = np.asarray(steps) / distances
    assert (ratios > 0.2).all()
    assert (ratios < 5).all()
    np.testing.assert_allclose(ratios[1:], ratios[-1], rtol=0.05)


def test_control_with_sampled_labels_the_gradient_is_not_in_the_range(x64):
    """ḡ of labels drawn from the model spans one direction, and it is not that of the gradient."""
    (x, y), minimum = problem()
    x, y = np.asarray(x), np.asarray(y)[:, 0]
    p = 1 / (1 + np.exp(-x @ (minimum + 0.1)))
    drawn = (np.random.default_rng(1).random(200) < p).astype(float)
    g, sampled = (x.T @ (p - labels) / 200 for labels in (y, drawn))
    wrong = np.outer(sampled, sampled)
    best = np.linalg.lstsq(wrong, g, rcond=None)[0]
    assert np.linalg.norm(g - wrong @ best) > 0.1 * np.linalg.norm(g)
    right = x.T @ (x * ((p - drawn) ** 2)[:, None]) / 200
    best = np.linalg.lstsq(right, g, rcond=None)[0]
    assert np.linalg.norm(g - right @ best) < 1e-12 * np.linalg.norm(g)
