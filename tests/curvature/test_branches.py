"""What is made now and then, by one run or by several under `vmap`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curvature._branches import update_where

DUE = jnp.array([True, False, True])
OLD = jnp.array([1.0, 2.0, 3.0])


def squared(due, old):
    return update_where(due, lambda: old**2, old)


def test_what_is_due_is_made():
    assert [float(squared(due, old)) for due, old in zip(DUE, OLD + 1, strict=True)] == [4, 3, 16]


def test_each_of_several_has_its_own():
    np.testing.assert_array_equal(jax.vmap(squared)(DUE, OLD + 1), [4, 3, 16])
    of_two = jax.vmap(jax.vmap(squared))(jnp.stack([DUE, ~DUE]), jnp.stack([OLD, OLD + 1]))
    np.testing.assert_array_equal(of_two, [[1, 2, 9], [2, 9, 4]])


@pytest.mark.parametrize("times", [1, 2])
def test_a_branch_stays_a_branch(times):
    """What is costly to make is inside a `cond`, and nowhere else."""

    def step(due, matrix):
        return update_where(due, lambda: jnp.linalg.eigh(matrix)[1], matrix)

    due, matrices = jnp.zeros((2,) * times, bool), jnp.zeros((2,) * times + (3, 3))
    for _ in range(times):
        step = jax.vmap(step)
    jaxpr = jax.make_jaxpr(step)(due, matrices).jaxpr
    assert "eigh" not in {equation.primitive.name for equation in jaxpr.eqns}
    (branch,) = [equation for equation in jaxpr.eqns if equation.primitive.name == "cond"]
    assert "eigh" in str(branch)


def test_derivatives_are_those_of_what_was_taken():
    found = jax.vmap(jax.grad(squared, argnums=1))(DUE, OLD)
    np.testing.assert_array_equal(found, [2, 1, 6])
