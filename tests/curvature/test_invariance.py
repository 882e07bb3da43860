"""The natural gradient does not depend on the parametrisation of a layer.

Write the weights of a layer as θ = T φ + t with an invertible T, and train φ instead of θ. Then J
becomes J T, C becomes TᵀC T and g becomes Tᵀg. So δφ = T⁻¹ C⁻¹ g, and the first-order change of the
outputs J T δφ = J C⁻¹ g is unchanged. For gradient descent it would be J T Tᵀ g.
"""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

import curvature as cv
from tests.selection import name_of, slow_but

SIZE = 4  # units of the hidden layer, 3 inputs and a bias each


class Net(eqx.Module):
    """A network 3 → 4 → 3; `theta` computes the weights of the first layer from φ."""

    phi: jax.Array
    head: eqx.nn.Linear
    theta: Callable = eqx.field(static=True)

    def __call__(self, x):
        layer = self.theta(self.phi).reshape(SIZE, 4)
        return self.head(jnp.tanh(layer[:, :3] @ x + layer[:, 3]))


@functools.cache
def pair():
    """Two models that are the same function in two parametrisations."""
    rng = np.random.default_rng(0)
    n = 4 * SIZE
    theta, t = rng.standard_normal((2, n))
    T = np.eye(n) + 0.25 * rng.standard_normal((n, n))
    head = eqx.nn.Linear(SIZE, 3, key=jax.random.key(0))
    ordinary = Net(jnp.asarray(theta), head, lambda phi: phi)
    other = Net(jnp.asarray(np.linalg.solve(T, theta - t)), head, lambda phi: T @ phi + t)
    return ordinary, other


def batch(n=60):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.standard_normal((n, 3))), jnp.asarray(rng.integers(3, size=n))


def change_of_outputs(model, curvature, damping):
    """The outputs, and J δ for the step δ of the optimiser; J δ is computed by `jax.jvp`."""
    opt = cv.NaturalGradient(
        cv.Supervised(cv.Categorical()),
        curvature=curvature,
        damping=damping,
        search=optx.LearningRate(0.1),
    )
    inputs, _ = data = batch()
    new, _, info = opt.step(model, data, opt.init(model), key=jax.random.key(5))
    assert info.accepted
    params, static = eqx.partition(model, eqx.is_array)
    flat, unravel = jfu.ravel_pytree(params)
    delta = jfu.ravel_pytree(eqx.filter(new, eqx.is_array))[0] - flat

    def outputs(w):
        return jax.vmap(eqx.combine(unravel(w), static))(inputs)

    return map(np.asarray, jax.jvp(outputs, (flat,), (delta,)))


def distance(curvature, damping):
    """The relative distance between the changes of the outputs in the two parametrisations."""
    (z, change), (other_z, other) = (change_of_outputs(m, curvature, damping) for m in pair())
    np.testing.assert_allclose(z, other_z, rtol=1e-9)
    return np.linalg.norm(change - other) / np.linalg.norm(change)


CURVATURES = [
    cv.GaussNewton(),
    cv.EmpiricalFisher(),
    cv.SampledFisher(samples=2),
    cv.Divergence(cv.SquaredEuclidean()),
]


@pytest.mark.parametrize("curvature", slow_but(CURVATURES[:1], CURVATURES), ids=name_of)
def test_a_natural_gradient_step_is_invariant(x64, curvature):
    """The law holds for λ → 0.

    λ = 0 is impossible: the softmax does not change if all logits are shifted by the same number,
    so C is singular.
    """
    assert distance(curvature, damping=1e-11) < 1e-4


def test_the_damping_is_what_breaks_the_invariance(x64):
    """For small λ the distance is proportional to λ, so only λI breaks the invariance."""
    distances = [distance(cv.GaussNewton(), damping) for damping in (1e-2, 1e-7, 1e-9)]
    assert distances[0] > 0.05
    assert distances[1] / distances[2] == pytest.approx(100, rel=0.2)
