"""`update_where`: a value that is recomputed only at some steps, also under `vmap`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curvature._branches import update_where

DUE = jnp.array([True, False, True])
OLD = jnp.array([1.0, 2.0, 3.0])


def squared(due, old):
    return update_where(due, lambda: old**2, old)


def test_the_value_is_recomputed_where_it_is_due():
    assert [float(squared(due, old)) for due, old in zip(DUE, OLD + 1, strict=True)] == [4, 3, 16]


def test_each_lane_of_vmap_has_its_own_condition():
    np.testing.assert_array_equal(jax.vmap(squared)(DUE, OLD + 1), [4, 3, 16])
    of_two = jax.vmap(jax.vmap(squared))(jnp.stack([DUE, ~DUE]), jnp.stack([OLD, OLD + 1]))
    np.testing.assert_array_equal(of_two, [[1, 2, 9], [2, 9, 4]])


@pytest.mark.parametrize("times", [1, 2])
def test_a_cond_remains_a_cond_under_vmap(times):
    """The expensive operation is inside a `cond` and nowhere else, for one or two `vmap`s."""

    def step(due, matrix):
        return update_where(due, lambda: jnp.linalg.eigh(matrix)[1], matrix)

    due, matrices = jnp.zeros((2,) * times, bool), jnp.zeros((2,) * times + (3, 3))
    for _ in range(times):
        step = jax.vmap(step)
    jaxpr = jax.make_jaxpr(step)(due, matrices).jaxpr
    assert "eigh" not in {equation.primitive.name for equation in jaxpr.eqns}
    (branch,) = [equation for equation in jaxpr.eqns if equation.primitive.name == "cond"]
    assert "eigh" in str(branch)


def test_derivatives_are_those_of_the_chosen_branch():
    found = jax.vmap(jax.grad(squared, argnums=1))(DUE, OLD)
    np.testing.assert_array_equal(found, [2, 1, 6])
