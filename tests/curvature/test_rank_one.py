"""Near a minimum the step of a Fisher is proportional to the distance from the minimum.

This needs the mean of the outer products of the examples' gradients. With the outer product ḡḡᵀ of
the mean gradient ḡ, the undamped step ḡ/‖ḡ‖² would grow without bound near a minimum.
"""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import curvature as cv
from tests.curvature.written import Line
from tests.selection import name_of, slow_but

DISTANCES = [1.0, 1e-2, 1e-4, 1e-6]  # from the minimum, along a fixed direction


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


def step_norm(curvature, distance, damping):
    batch, minimum = problem()
    model = Line(jnp.asarray(minimum + distance * np.array([1.0, 0.5, -0.5])))
    opt = cv.NaturalGradient(
        cv.Supervised(cv.Bernoulli()), curvature=curvature, damping=damping, solver=lx.Cholesky()
    )
    new, _, info = opt.step(model, batch, opt.init(model), key=jax.random.key(0))
    assert info.accepted
    np.testing.assert_allclose(info.step_norm, np.linalg.norm(new.w - model.w), rtol=1e-6)
    return float(info.step_norm), float(info.grad_norm)


FISHERS = [cv.EmpiricalFisher(), cv.SampledFisher(samples=1), cv.ExactFisher()]


@pytest.mark.parametrize("curvature", slow_but(FISHERS[2:], FISHERS), ids=name_of)
def test_the_fishers_step_shrinks_with_the_distance(x64, curvature):
    steps, _ = zip(*(step_norm(curvature, distance, damping=0.0) for distance in DISTANCES))
    distances = np.asarray(DISTANCES) * np.linalg.norm([1.0, 0.5, -0.5])
    ratios = np.asarray(steps) / distances
    assert (ratios > 0.2).all()
    assert (ratios < 5).all()
    np.testing.assert_allclose(ratios[1:], ratios[-1], rtol=0.05)
