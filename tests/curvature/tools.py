"""Helpers of several test files: ravelled trees, casts, a small network and dense rows."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

import curvature as cv
from curvature.rows import LowerBlocks, layout_of
from curvature.rows.layout import Way
from tests.curvature.cases import Case


class Notes(list[Any]):
    """A list for a static field, which must be hashable: it is hashed and compared by identity."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


def flat(tree: PyTree) -> Array:
    """All arrays of a tree in one vector."""
    return jfu.ravel_pytree(eqx.filter(tree, eqx.is_inexact_array))[0]


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """The tree with all floating-point arrays cast to `dtype`."""

    def one(leaf: Any) -> Any:
        wanted = eqx.is_inexact_array_like(leaf) and not isinstance(leaf, float)
        return jnp.asarray(leaf, dtype) if wanted else leaf

    return jax.tree.map(one, tree)


def float64(tree: PyTree) -> PyTree:
    return cast(tree, jnp.float64)


def network(dtype: Any, *, scale: float = 1.0, n: int = 12, repeat: int = 1) -> tuple[Any, Any]:
    """A 20-12-6 network and n examples of 6 classes; each example occurs `repeat` times."""
    model = eqx.nn.MLP(20, 6, 12, 1, key=jax.random.key(0))
    model = jax.tree.map(lambda a: scale * a if eqx.is_array(a) else a, model)
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.random((n, 20)), dtype), jnp.asarray(rng.integers(6, size=n))
    return cast(model, dtype), (jnp.tile(x, (repeat, 1)), jnp.tile(y, repeat))


def linearised(model: Any, batch: Any) -> cv.Linearisation:
    """The linearisation of a classifier."""
    return cv.Supervised(cv.Categorical()).linearise(model, batch)


def ways(case: Case) -> list[Way]:
    """How the rows of `Fixed` are computed for each weight, in the order of the leaves."""

    def of_shapes(model: Any, batch: Any) -> None:
        linearisation = case.objective.linearise(
            model, batch, trainable=case.trainable, key=case.key
        )
        found.extend(layout_of(linearisation, [Fixed().rank] * len(linearisation.terms)).ways)

    found: list[Way] = []
    eqx.filter_eval_shape(of_shapes, case.model, case.batch)
    return found


def jacobians(model: Any, x: Array, trainable: PyTree = eqx.is_inexact_array) -> Array:
    """∂z_i/∂w, [n, c, P], by `jax.jacrev` alone, without the library."""
    params, frozen = eqx.partition(model, trainable)
    w, unravel = jfu.ravel_pytree(params)

    def outputs(w: Array, x: Array) -> Array:
        return jnp.ravel(eqx.combine(unravel(w), frozen)(x))

    return jax.vmap(jax.jacrev(outputs), in_axes=(None, 0))(w, x)


def symmetric(held: LowerBlocks) -> Float[np.ndarray, "m m"]:
    """The full symmetric matrix, from its block columns, which start on the diagonal."""
    matrix, start = np.zeros((held.size, held.size)), 0
    for column in map(np.asarray, held.columns):
        end = start + column.shape[1]
        matrix[start:end, start:end] = column[: column.shape[1]]
        matrix[end:, start:end] = column[column.shape[1] :]
        matrix[start:end, end:] = matrix[end:, start:end].T
        start = end
    return matrix


def distance(found: Any, expected: Any) -> float:
    """‖found − expected‖/‖expected‖, in the Euclidean (Frobenius) norm."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


class Fixed(cv.AbstractPullback):
    """A curvature whose S is the same for all examples, so that the dense rows A are known."""

    rank: int = 2

    def columns(self, c: int) -> Float[np.ndarray, "c r"]:
        return np.random.default_rng(c).normal(size=(c, self.rank))

    def factor(self, likelihood: Any, z: Array, y: Any, *, key: Any) -> Float[Array, "c r"]:
        del likelihood, y, key
        return jnp.asarray(self.columns(z.size), z.dtype)


def check_rows(case: Case, *, matrices: bool = False) -> None:
    """Compares the Gram matrix of the rows of `Fixed`, and products with them, with dense rows.

    **Arguments:** `matrices`, whether to check also `as_matrix` and `diagonal`.
    """
    metric = Fixed()
    rng = np.random.default_rng(1)
    size = flat(eqx.filter(case.model, case.trainable)).size
    vector = jnp.asarray(rng.normal(size=size))
    of_outputs = eqx.filter_eval_shape(
        lambda: case.objective.linearise(case.model, case.batch, key=case.key).terms
    )
    image = tuple(jnp.asarray(rng.normal(size=term.outputs.shape)) for term in of_outputs)

    @eqx.filter_jit
    def measured(model: Any, batch: Any) -> Any:
        linearisation = case.objective.linearise(
            model, batch, trainable=case.trainable, key=case.key
        )
        C = metric.operator(linearisation)
        rows = C.rows(C.layout(), image)
        unravel = jfu.ravel_pytree(linearisation.params)[1]
        of_vector = rows.mv(unravel(vector)), flat(C.mv(unravel(vector)))
        J = [
            replace(term, keys=of_library.keys).jacobians(model, case.trainable)
            for term, of_library in zip(case.terms, linearisation.terms, strict=True)
        ]
        of_matrix = (C.as_matrix(), C.diagonal()) if matrices else None
        return rows.gram(), *of_vector, rows.project(), of_matrix, J

    gram, Av, Cv, (share, squared), of_matrix, J = measured(case.model, case.batch)
    pieces, v = [], 0
    for term, of_term, cotangents in zip(case.terms, map(np.asarray, J), image, strict=True):
        n, c, _ = of_term.shape
        S = metric.columns(c) * (term.weight / n) ** 0.5
        pieces.append(np.einsum("cr,icp->rip", S, of_term).reshape(-1, size))
        v = v + np.einsum("icp,ic->p", of_term, np.asarray(cotangents).reshape(n, c))
    A = np.concatenate(pieces)
    scale = np.linalg.norm(A)

    def close(found: Any, expected: Any, units: float) -> None:
        np.testing.assert_allclose(found, expected, atol=1e-13 * units)

    close(symmetric(gram), A @ A.T, scale**2)
    close(Av, A @ vector, scale * np.linalg.norm(vector))
    close(Cv, A.T @ (A @ vector), scale**2 * np.linalg.norm(vector))
    close(share, A @ v, (1 + scale) * (1 + np.linalg.norm(v)))
    close(squared, v @ v, 1 + v @ v)
    if of_matrix is not None:
        close(of_matrix[0], A.T @ A, scale**2)
        close(of_matrix[1], np.diag(A.T @ A), scale**2)
