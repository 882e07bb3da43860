"""Solves in sample space for the gradient plus a given vector, `options["offset"]`."""

import functools
import itertools

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
import numpy as np
import pytest

import curvature as cv
from tests.selection import name_of, slow_but

RELATIVE = [1.0, 1e-2, 1e-4, 1e-6]
CURVATURES = [cv.EmpiricalFisher(), cv.SampledFisher(2), cv.ExactFisher()]


def network(dtype, n=12):
    model = eqx.nn.MLP(20, 6, 12, 1, key=jax.random.key(0))
    model = jtu.tree_map(lambda a: a.astype(dtype) if eqx.is_array(a) else a, model)
    rng = np.random.default_rng(0)
    return model, (
        jnp.asarray(rng.random((n, 20)).astype(dtype)),
        jnp.asarray(rng.integers(6, size=n)),
    )


def flat(tree):
    return jfu.ravel_pytree(tree)[0]


def parts(model, batch, curvature):
    """C, its γ pulled back, and the gradient."""
    linearisation = cv.Supervised(cv.Categorical()).linearise(model, batch)
    C = curvature.operator(linearisation, key=jax.random.key(1))
    remainder = C.gradient_options()["remainder"]
    grad = linearisation.grad
    left = jtu.tree_map(jnp.zeros_like, grad) if remainder is None else linearisation.vjp(remainder)
    return C, grad, left


@eqx.filter_jit
def dense(model, batch, curvature):
    """C by its definition, from Jacobians, and the gradient and the rest of it."""
    C, grad, left = parts(model, batch, curvature)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    w, unravel = jfu.ravel_pytree(params)
    J = jax.jacrev(lambda w: jax.vmap(eqx.combine(unravel(w), static))(batch[0]))(w)
    p = jax.nn.softmax(jax.vmap(model)(batch[0]))
    n = len(p)
    if isinstance(curvature, cv.SampledFisher):
        return C.as_matrix(), flat(grad), flat(left)
    if isinstance(curvature, cv.EmpiricalFisher):
        s = p - jax.nn.one_hot(batch[1], 6, dtype=p.dtype)
        M = s[:, :, None] * s[:, None, :]
    else:
        M = jax.vmap(jnp.diag)(p) - p[:, :, None] * p[:, None, :]
    matrix = jnp.einsum("icp,icd,idq->pq", J, M, J) / n
    return matrix, flat(grad), flat(left)


@eqx.filter_jit
def solved(model, batch, curvature, damping, offset):
    C, grad, _ = parts(model, batch, curvature)
    offset = jfu.ravel_pytree(grad)[1](offset)
    options = C.gradient_options() | {"offset": offset}
    vector = jtu.tree_map(jnp.add, grad, offset)
    found = lx.linear_solve(
        cv.damped(C, damping), vector, cv.SampleSpace(), options=options, throw=False
    )
    return flat(found.value), found.stats


RESIDUALS = [*itertools.product(["float32", "float64"], CURVATURES)]


@pytest.mark.parametrize(
    ("dtype", "curvature"), slow_but([RESIDUALS[0], RESIDUALS[-1]], RESIDUALS), ids=name_of
)
def test_the_residual_is_that_of_a_backward_stable_solve(dtype, curvature):
    """For vectors of all sizes: λμφ and a penalty's; one that all but undoes the remainder."""
    with jax.enable_x64(dtype == "float64"):
        model, batch = network(dtype)
        with jax.enable_x64(True):
            wide = jtu.tree_map(
                lambda a: jnp.asarray(a, jnp.float64) if eqx.is_inexact_array(a) else a,
                (model, batch),
            )
            C, g, left = map(np.asarray, dense(*wide, curvature))
        if isinstance(curvature, cv.SampledFisher):  # whose draw depends on the precision
            C, g, left = (np.asarray(a, np.float64) for a in dense(model, batch, curvature))
        w = np.asarray(flat(eqx.filter(model, eqx.is_inexact_array)), np.float64)
        size, eps = np.linalg.norm(C, 2), float(np.finfo(dtype).eps)
        last = np.linalg.solve(C + 1e-3 * size * np.eye(len(C)), g)
        noise = np.random.default_rng(0).normal(size=len(g))
        for relative in RELATIVE:
            damping = np.dtype(dtype).type(relative * size)
            offsets = {
                "momentum": 0.9 * damping * last,
                "penalty": 1e-4 * w,
                "noise": noise,
                "small noise": 1e-6 * noise,
                "the remainder": 1e-3 * C @ noise - left,
            }
            for name, offset in offsets.items():
                v = jnp.asarray(offset, dtype)
                d, stats = solved(model, batch, curvature, damping, v)
                b, d = g + np.asarray(v, np.float64), np.asarray(d, np.float64)
                residual = np.linalg.norm(b - C @ d - float(damping) * d)
                unit = eps * (size + float(damping)) * np.linalg.norm(d)
                squared_norm, steps = d @ d, int(stats["num_steps"])
                message = f"{name}, λ = {relative} ‖C‖: {residual / unit:.1f}, {steps}"
                # The vector itself is known to its rounding only.
                known = eps * (np.linalg.norm(g) + np.linalg.norm(v) + np.linalg.norm(left))
                assert residual <= 10 * unit + known, message
                assert stats["residual"] * np.linalg.norm(b) >= residual / 10, message
                # Numbers of the vector are as good as it is.
                close = functools.partial(
                    np.testing.assert_allclose, rtol=100 * eps / relative**0.5, err_msg=message
                )
                close(stats["metric"], d @ C @ d, atol=10 * eps * size * squared_norm)
                close(stats["slope"], d @ b, atol=10 * eps * size * squared_norm)
                close(stats["squared_norm"], squared_norm)
                close(stats["vector_norm"], np.linalg.norm(b), atol=known)
