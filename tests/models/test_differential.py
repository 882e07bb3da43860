"""Differential operators agree with closed forms, and with dense derivatives by JAX."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import MLP, heat_operator, negative_laplacian, value

pytestmark = pytest.mark.usefixtures("x64")


def waves(x):
    """Two functions whose derivatives are known: Σ_i sin(k_i x_i), k = 1, 2, ..., and Π_i x_i²."""
    k = jnp.arange(1, x.size + 1, dtype=x.dtype)
    return jnp.stack([jnp.sum(jnp.sin(k * x)), jnp.prod(x**2)])


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_laplacian_of_known_functions(dimension):
    x = np.random.default_rng(0).uniform(0.5, 1.5, size=dimension)
    k = np.arange(1, dimension + 1)
    expected = [-np.sum(k**2 * np.sin(k * x)), np.sum(2 * np.prod(x**2) / x**2)]
    found = -eqx.filter_jit(negative_laplacian)(waves, jnp.asarray(x))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("diffusivity", [0.25, 2.0])
@pytest.mark.parametrize("dimension", [2, 3])
def test_heat_operator_of_known_functions(dimension, diffusivity):
    x = np.random.default_rng(0).uniform(0.5, 1.5, size=dimension)
    k, space = np.arange(1, dimension + 1), np.arange(1, dimension)
    squared = np.prod(x**2)
    rates = np.array([np.cos(x[0]), 2 * squared / x[0]])
    laplacian = np.array(
        [-np.sum((k**2 * np.sin(k * x))[space]), np.sum((2 * squared / x**2)[space])]
    )
    found = eqx.filter_jit(heat_operator)(waves, jnp.asarray(x), diffusivity=diffusivity)
    np.testing.assert_allclose(found, rates - diffusivity * laplacian, rtol=1e-12)


def test_operators_on_a_network():
    model = eqx.filter_jit(MLP)(
        (3,), 2, width=5, depth=2, activation=jnp.tanh, key=jax.random.key(0)
    )
    x = jax.random.normal(jax.random.key(1), (3,))
    hessian, gradient = jax.jit(jax.hessian(model))(x), jax.jit(jax.jacrev(model))(x)
    np.testing.assert_array_equal(eqx.filter_jit(value)(model, x), eqx.filter_jit(model)(x))
    np.testing.assert_allclose(
        eqx.filter_jit(negative_laplacian)(model, x),
        -jnp.trace(hessian, axis1=1, axis2=2),
        rtol=1e-12,
    )
    expected = gradient[:, 0] - 0.25 * jnp.trace(hessian[:, 1:, 1:], axis1=1, axis2=2)
    found = eqx.filter_jit(heat_operator)(model, x, diffusivity=0.25)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_solution_leaves_no_residual():
    """The solution is u* = exp(−π²t/4) sin πx, that of `dataset=heat`."""

    def solution(x):
        return (jnp.exp(-(jnp.pi**2) * x[0] / 4) * jnp.sin(jnp.pi * x[1]))[None]

    x = jnp.asarray([0.3, 0.7])
    np.testing.assert_allclose(heat_operator(solution, x, diffusivity=0.25), [0.0], atol=1e-13)
