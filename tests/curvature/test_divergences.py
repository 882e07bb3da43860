"""Divergences between outputs, and the curvature `Divergence` of each."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
from tests.curvature.cases import LIKELIHOODS, library
from tests.selection import slow_but

pytestmark = pytest.mark.usefixtures("x64")

NAMED = {
    "euclidean": cv.SquaredEuclidean(),
    **{f"kl_{name}": cv.KL(library(name)) for name in LIKELIHOODS},
    **{f"hellinger_{name}": cv.SquaredHellinger(library(name)) for name in LIKELIHOODS},
}


def outputs(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def metric(rho, z):
    """M = S Sᵀ of `Divergence(rho)`, which does not depend on the likelihood and the target."""
    factor = cv.Divergence(rho).factor
    S = jax.jit(lambda z: factor(cv.Gaussian(), z, jnp.zeros(z.shape), key=None))(z)
    return S @ S.T


@pytest.mark.parametrize("shape", slow_but([(2, 3)], [(3,), (2, 3)]))
def test_a_divergence_is_zero_and_minimal_at_equal_outputs(shape):
    z, others = outputs(shape), jnp.stack([outputs(shape, seed) for seed in range(1, 10)])

    @jax.jit
    def compiled(z, others):
        found = [jax.value_and_grad(rho, argnums=1)(z, z) for rho in NAMED.values()]
        return found, [jax.vmap(lambda z2, of=rho: of(z, z2))(others) for rho in NAMED.values()]

    here, elsewhere = compiled(z, others)
    for name, (value, grad), positive in zip(NAMED, here, elsewhere, strict=True):
        assert value == pytest.approx(0, abs=1e-15), name
        assert np.allclose(grad, 0, atol=1e-15), name
        assert np.all(positive > 0), name


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_hellinger_is_symmetric_at_most_one_and_below_half_of_kl(name):
    """H² ≤ KL/2 holds for H² = 1 − ∫√(pq), because −log x ≥ 1 − x."""
    z, z2 = (np.random.default_rng(seed).normal(size=(10, 3)) for seed in (0, 50))

    @jax.jit
    def compiled(z, z2):
        rho, kl = cv.SquaredHellinger(library(name)), cv.KL(library(name))
        far = rho(z[0], 30 * z2[1]), rho(30 * z2[1], z[0])
        return far, jax.vmap(rho)(z, z2), jax.vmap(kl)(z, z2)

    far, squared, kl = compiled(z, z2)
    np.testing.assert_allclose(*far, rtol=1e-14)
    assert 0.5 < far[0] <= 1
    assert np.all(squared <= kl / 2)


def test_euclidean_by_hand():
    assert cv.SquaredEuclidean()(jnp.asarray([1.0, 2.0]), jnp.asarray([4.0, -2.0])) == 12.5
    assert np.allclose(metric(cv.SquaredEuclidean(), outputs((2, 3))), np.eye(6), atol=1e-15)


def test_the_metric_of_a_users_own_divergence_is_its_hessian():
    """The Hessian of ρ(z, z') = ½(z' − z)ᵀ A (z' − z) + Σ (z' − z)⁴ at z' = z is A."""
    A = jnp.asarray([[2.0, 1.0, 0.0], [1.0, 3.0, -1.0], [0.0, -1.0, 1.0]])

    def rho(z, z2):
        return (z2 - z) @ A @ (z2 - z) / 2 + jnp.sum((z2 - z) ** 4)

    assert np.allclose(metric(rho, outputs((3,))), A, atol=1e-14)


def test_negative_eigenvalues_of_the_hessian_are_clipped():
    """With a negative eigenvalue ρ is not minimal at z. The other eigenvalues are kept."""
    basis = jnp.linalg.qr(outputs((3, 3)))[0]
    A = basis @ jnp.diag(jnp.asarray([2.0, -1.0, 0.5])) @ basis.T
    nearest = basis @ jnp.diag(jnp.asarray([2.0, 0.0, 0.5])) @ basis.T
    found = metric(lambda z, z2: (z2 - z) @ A @ (z2 - z) / 2, outputs((3,)))
    assert np.allclose(found, nearest, atol=1e-14)


def test_the_decompositions_of_a_term_depend_on_those_of_the_term_before():
    """Two batches of decompositions at the same time may wait forever; see `_depend_on`.

    The second depends on the first. A program for the second term alone therefore contains both.
    """
    term = cv.Term(lambda model, x: model(x), cv.Categorical())
    objective = cv.Objective({"a": term, "b": term})
    model = eqx.nn.Linear(3, 3, key=jax.random.key(0))
    batch = outputs((4, 3)), jnp.asarray([0, 1, 2, 0])

    @jax.jit
    def second(batch):
        linearisation = objective.linearise(model, {"a": batch, "b": batch})
        return cv.Divergence(cv.SquaredHellinger()).operator(linearisation).factors[1].matrix

    assert second.lower(batch).compile().as_text().count("syevd") == 2
