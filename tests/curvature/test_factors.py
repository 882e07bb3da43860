"""Closed-form factors S: their products against the matrix S, and S Sᵀ against its definition."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import curvature as cv
from curvature.likelihoods import DiagonalFactor, MaskedFactor, square_mv
from tests.selection import slow_but

MASK = jnp.asarray([True, False, True, True, False, True])
FACTORS = {
    "categorical": cv.Categorical().fisher_factor,
    "categorical_thin": cv.Categorical().thin_fisher_factor,
    "bernoulli": cv.Bernoulli().fisher_factor,
    "gaussian": cv.Gaussian(variance=0.7).fisher_factor,
    "masked": lambda z: MaskedFactor(cv.Categorical().thin_fisher_factor(z), MASK[: z.size]),
    "masked_array": lambda z: MaskedFactor(
        lx.MatrixLinearOperator(jnp.outer(z.ravel(), jnp.sin(z.ravel()[:2]))), MASK[: z.size]
    ),
}
QUICK, SHAPES = ["categorical_thin", "bernoulli", "masked_array"], [(4,), (2, 3)]


def everything(name):
    """A function z -> the matrices of S, of Sᵀ and of M, each by its own methods."""

    def matrices(z):
        S = FACTORS[name](z)
        columns, rows = jnp.eye(S.in_size()), jnp.eye(S.out_size())
        return {
            "matrix": S.as_matrix(),
            "mv": jax.vmap(S.mv, out_axes=1)(columns),
            "transposed mv": jax.vmap(S.T.mv)(rows),
            "transposed matrix": S.T.as_matrix().T,
            "square": jax.vmap(S.square_mv, out_axes=1)(rows),
        }

    return matrices


def metric(name, z):
    """M by its definition, in NumPy."""
    p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    blocks = np.zeros((z.size, z.size))
    for row, q in enumerate(p.reshape(-1, z.shape[-1])):
        part = slice(row * len(q), (row + 1) * len(q))
        blocks[part, part] = np.diag(q) - np.outer(q, q)
    sigmoid = 1 / (1 + np.exp(-z.ravel()))
    D = np.diag(np.asarray(MASK[: z.size], float))
    w = D @ np.outer(z.ravel(), np.sin(z.ravel()[:2]))
    return {
        "categorical": blocks,
        "categorical_thin": blocks,
        "bernoulli": np.diag(sigmoid * (1 - sigmoid)),
        "gaussian": np.eye(z.size) / 0.7,
        "masked": D @ blocks @ D,
        "masked_array": w @ w.T,
    }[name]


@pytest.mark.parametrize("name", slow_but(QUICK, FACTORS))
def test_every_product_is_that_of_the_matrix_and_so_are_the_derivatives(x64, name):
    f, h = jax.jit(lambda z, dz: jax.jvp(everything(name), (z,), (dz,))), 1e-5
    for shape in SHAPES:
        z, dz = np.random.default_rng(0).normal(size=(2, *shape))
        found, derivative = f(z, dz)
        after, before = f(z + h * dz, dz)[0], f(z - h * dz, dz)[0]
        for key in ("mv", "transposed mv", "transposed matrix"):
            np.testing.assert_allclose(found[key], found["matrix"], atol=1e-15)
        M = metric(name, z)
        np.testing.assert_allclose(found["square"], M, atol=1e-15)
        np.testing.assert_allclose(found["matrix"] @ found["matrix"].T, M, atol=1e-15)
        for key, value in derivative.items():
            difference = (after[key] - before[key]) / (2 * h)
            np.testing.assert_allclose(value, difference, atol=1e-9, err_msg=key)


@pytest.mark.parametrize("name", slow_but(QUICK, FACTORS))
def test_factors_of_confident_outputs_and_their_derivatives_are_finite_in_float32(name):
    z = jnp.asarray([300.0, -300.0, 0.0])
    f = jax.jit(lambda z: (everything(name)(z), jax.jacrev(everything(name))(z)))
    for leaf in jax.tree.leaves(f(z)):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()


def test_a_single_class_has_no_metric():
    for name in ("categorical", "categorical_thin"):
        for number in jax.tree.leaves(jax.jit(everything(name))(jnp.asarray([3.0]))):
            assert number.tolist() == [[0.0]]


def test_factors_of_all_examples_are_one_operator(x64):
    z = np.random.default_rng(0).normal(size=(5, 2, 3))
    factor = cv.Categorical().thin_fisher_factor

    @eqx.filter_jit
    def matrices(z):
        S = eqx.filter_vmap(factor)(z)
        one_by_one = jnp.stack([factor(example).as_matrix() for example in z])
        return S, eqx.filter_vmap(lambda S: S.as_matrix())(S), one_by_one

    S, found, expected = matrices(jnp.asarray(z))
    assert all(eqx.is_array(leaf) and len(leaf) == 5 for leaf in jax.tree.leaves(S))
    np.testing.assert_allclose(found, expected, atol=1e-15)


@pytest.mark.parametrize("name", slow_but(QUICK, FACTORS))
def test_functions_of_lineax_accept_the_factors(x64, name):
    z = jnp.asarray(np.random.default_rng(0).normal(size=4))
    kinds = (
        *(lx.is_diagonal, lx.is_tridiagonal, lx.is_symmetric, lx.is_positive_semidefinite),
        *(lx.is_lower_triangular, lx.is_upper_triangular),
    )

    @jax.jit
    def numbers(z):
        S = FACTORS[name](z)
        matrix, diagonal = S.as_matrix(), isinstance(S, DiagonalFactor)
        assert S.T.T is S
        assert all(is_kind(S) is diagonal for is_kind in kinds)
        same = [((S @ S.T).as_matrix(), matrix @ matrix.T)]
        for operator, expected in ((S, matrix), (S.T, matrix.T)):
            assert not lx.is_negative_semidefinite(operator)
            assert not lx.has_unit_diagonal(operator)
            others = lx.linearise(operator), lx.conj(operator), lx.materialise(operator)
            same += [(other.as_matrix(), expected) for other in others]
            if S.in_size() == 4:
                of_lineax = lx.diagonal(operator), lx.tridiagonal(operator)[0]
                same += [(found, jnp.diagonal(expected)) for found in of_lineax]
        return same

    for found, expected in numbers(z):
        np.testing.assert_allclose(found, expected, atol=1e-15)


def test_the_square_of_any_operator(x64):
    rng = np.random.default_rng(0)
    A, u = rng.normal(size=(4, 2)), rng.normal(size=4)

    @jax.jit
    def squares(A, u):
        S = cv.Categorical().fisher_factor(u)
        return square_mv(lx.MatrixLinearOperator(A), u), square_mv(S, u), S.square_mv(u)

    of_matrix, *of_factor = squares(A, u)
    np.testing.assert_allclose(of_matrix, A @ (A.T @ u))
    np.testing.assert_array_equal(*of_factor)
