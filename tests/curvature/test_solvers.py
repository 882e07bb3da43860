"""Solvers on the curvature of real networks in float32, and which of them `Auto` picks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
import numpy as np
import pytest

import curvature as cv
from tests.selection import slow_but

DAMPINGS = [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0]


def network(width, depth):
    """An MLP 784-…-10 in float32, and 64 images of which three in ten pixels are always black."""
    rng = np.random.default_rng(0)
    x = (rng.random((64, 784)) * (rng.random(784) < 0.7)).astype(np.float32)
    y = rng.integers(10, size=64).astype(np.int32)
    return eqx.nn.MLP(784, 10, width, depth, key=jax.random.key(0)), (x, y)


@eqx.filter_jit
def solve(model, batch, damping, solver):
    """(C + λI)⁻¹g for the Gauss–Newton matrix of the categorical likelihood, and g."""
    linearisation = cv.Supervised(cv.Categorical()).linearise(model, batch)
    operator = cv.damped(cv.GaussNewton().operator(linearisation), damping)
    solution = lx.linear_solve(operator, linearisation.grad, solver, throw=False)
    return solution.value, solution.stats, linearisation.grad


@eqx.filter_jit
def judge(model, batch, damping, grad, x):
    """‖g − (C+λI)x‖/‖g‖ and ½xᵀ(C+λI)x − gᵀx, by nothing but `jax.jvp` and `jax.vjp`."""
    params, static = eqx.partition(model, eqx.is_inexact_array)
    inputs, _ = batch

    def logits(params):
        return jax.vmap(eqx.combine(params, static))(inputs)

    z, dz = jax.jvp(logits, (params,), (x,))
    p = jax.nn.softmax(z)
    cotangent = (p * dz - p * jnp.sum(p * dz, axis=1, keepdims=True)) / len(inputs)
    (Cx,) = jax.vjp(logits, params)[1](cotangent)
    r = jtu.tree_map(lambda g, c, v: g - c - damping * v, grad, Cx, x)

    def dot(a, b):
        return sum(jnp.vdot(u, v) for u, v in zip(jtu.tree_leaves(a), jtu.tree_leaves(b)))

    return jnp.sqrt(dot(r, r) / dot(grad, grad)), -(dot(grad, x) + dot(x, r)) / 2


def in_float64(*trees):
    return jtu.tree_map(
        lambda a: jnp.asarray(a, jnp.float64) if eqx.is_inexact_array_like(a) else a, trees
    )


@pytest.mark.parametrize(("rtol", "max_steps"), slow_but([(1e-4, 100)], [(0.0, 10), (1e-4, 100)]))
def test_every_damping_is_solved_on_a_network_of_two_million_parameters(rtol, max_steps):
    """Finite, the quadratic lowered, the residual the true one; lineax's own CG gives NaN."""
    model, batch = network(width=1070, depth=2)
    assert sum(leaf.size for leaf in jtu.tree_leaves(eqx.filter(model, eqx.is_array))) > 1_990_000
    solver = cv.CG(rtol=rtol, max_steps=max_steps)
    for damping in map(np.float32, DAMPINGS):
        x, stats, grad = solve(model, batch, damping, solver)
        assert all(np.isfinite(leaf).all() for leaf in jtu.tree_leaves(x)), damping
        with jax.enable_x64(True):
            judged = judge(*in_float64(model, batch, damping, grad, x))
            residual, quadratic = (float(number) for number in judged)
        assert quadratic < 0, damping
        assert float(stats["residual"]) == pytest.approx(residual, rel=0.02, abs=1e-6), damping
        assert float(stats["quadratic"]) == pytest.approx(quadratic, rel=1e-4), damping
        # It ends where it was told to, or where float32 does.
        assert stats["num_steps"] == max_steps or residual <= max(1.01 * rtol, 2e-7), damping


@pytest.mark.parametrize("damping", [1e-3, 1.0])
def test_control_lineax_cg_gives_nan_on_a_network_twenty_times_smaller(damping):
    """Why there is a `cv.CG`: if this fails one day, ask whether it is still needed."""
    model, batch = network(width=128, depth=1)
    x, _, _ = solve(model, batch, np.float32(damping), lx.CG(rtol=1e-3, atol=1e-6, max_steps=10))
    assert all(np.isnan(leaf).all() for leaf in jtu.tree_leaves(x))


# --- which solver ----------------------------------------------------------------------------


def small(dtype=np.float64):
    """A Gauss–Newton matrix of 21 parameters as operator, and a right-hand side."""
    model = eqx.nn.MLP(3, 2, 3, 1, key=jax.random.key(0))
    model = jtu.tree_map(lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a, model)
    rng = np.random.default_rng(0)
    batch = (jnp.asarray(rng.standard_normal((6, 3)), dtype), jnp.asarray(rng.integers(2, size=6)))
    linearisation = cv.Supervised(cv.Categorical()).linearise(model, batch)
    return linearisation, cv.GaussNewton().operator(linearisation)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jtu.tree_leaves(tree)])


def test_lineax_cholesky_solves_the_damped_system(x64):
    linearisation, C = small()
    solution = lx.linear_solve(cv.damped(C, 1e-3), linearisation.grad, lx.Cholesky())
    matrix = np.asarray(C.as_matrix()) + 1e-3 * np.eye(C.in_size())
    expected = np.linalg.solve(matrix, flat(linearisation.grad))
    np.testing.assert_allclose(flat(solution.value), expected, rtol=1e-9)


@pytest.mark.parametrize("solver", [cv.CG(rtol=1e-10, max_steps=200), cv.Auto()])
def test_the_other_solvers_agree_with_it(x64, solver):
    linearisation, C = small()
    operator = cv.damped(C, 1e-3)
    expected = lx.linear_solve(operator, linearisation.grad, lx.Cholesky()).value
    found = lx.linear_solve(operator, linearisation.grad, solver).value
    np.testing.assert_allclose(flat(found), flat(expected), rtol=1e-6)


# What each of them costs is told by operations: from a few hundred parameters on, a dense matrix
# takes more than CG's thirty products.


def test_auto_divides_where_the_operator_is_diagonal(x64):
    linearisation, _ = small()
    operator = cv.damped(cv.Identity().operator(linearisation), 0.25)
    solution = lx.linear_solve(operator, linearisation.grad, cv.Auto())
    np.testing.assert_allclose(flat(solution.value), flat(linearisation.grad) / 1.25, rtol=1e-15)
    assert solution.stats["num_steps"] == 0


def chosen(operator, **options):
    return type(cv.Auto().plan(operator, **options).solver)


def gauss_newton(model, batch, damping=1e-3):
    linearisation = cv.Supervised(cv.Categorical()).linearise(model, batch)
    return cv.damped(cv.GaussNewton().operator(linearisation), damping)


def test_auto_factorises_a_small_matrix_where_there_are_far_more_rows(x64):
    model = eqx.nn.MLP(3, 2, 3, 1, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (2000, 3))
    operator = gauss_newton(model, (x, jnp.arange(2000) % 2))
    assert chosen(operator) is lx.Cholesky
    b = jtu.tree_map(jnp.ones_like, eqx.filter(model, eqx.is_array))
    found = lx.linear_solve(operator, b, cv.Auto())
    expected = lx.linear_solve(operator, b, lx.Cholesky())
    np.testing.assert_array_equal(flat(found.value), flat(expected.value))


def test_auto_solves_in_sample_space_where_rows_are_few():
    model, batch = network(width=128, depth=1)
    assert chosen(gauss_newton(model, batch)) is cv.SampleSpace


def test_auto_iterates_where_everything_is_many():
    model, (x, y) = network(width=128, depth=1)
    batch = (np.tile(x, (40, 1)), np.tile(y, 40))
    assert chosen(gauss_newton(model, batch)) is cv.CG


def test_auto_passes_its_own_solvers_on():
    model, batch = network(width=128, depth=1)
    own = cv.CG(rtol=1e-2, max_steps=5)
    auto = cv.Auto(cg=own, sample_space=cv.SampleSpace(max_rows=5))  # 64 × 9 rows are refused
    found, stats, _ = solve(model, batch, np.float32(0.1), auto)
    expected, expected_stats, _ = solve(model, batch, np.float32(0.1), own)
    np.testing.assert_array_equal(flat(found), flat(expected))
    assert stats["num_steps"] == expected_stats["num_steps"] > 0


def test_auto_takes_a_few_products_over_an_exact_solve_that_costs_more():
    model, batch = network(width=128, depth=1)
    few = cv.Auto(cg=cv.CG(rtol=0.0, max_steps=1)).plan(gauss_newton(model, batch))
    assert isinstance(few.solver, cv.CG)
    assert few.gradients == pytest.approx(2.0)
    assert few.others["SampleSpace"] > 2.0


@pytest.mark.parametrize(("size", "solver"), [(200, lx.Cholesky), (400, cv.CG)])
def test_auto_iterates_where_a_matrix_of_its_own_is_large(size, solver):
    operator = cv.damped(lx.MatrixLinearOperator(jnp.eye(size), lx.positive_semidefinite_tag), 1e-3)
    assert chosen(operator) is solver


def test_auto_does_not_factorise_what_may_be_singular(x64):
    """A small matrix and many rows again: Cholesky's method, but for λ = 0."""
    model = eqx.nn.MLP(3, 2, 3, 1, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (200, 3))
    batch = (x, jnp.arange(200) % 2)
    assert chosen(gauss_newton(model, batch)) is lx.Cholesky
    assert chosen(gauss_newton(model, batch, 0.0)) is cv.SampleSpace
    assert chosen(gauss_newton(model, batch), positive_damping=False) is cv.SampleSpace


def test_a_plan_says_what_it_counted():
    model, batch = network(width=128, depth=1)
    plan = cv.Auto().plan(gauss_newton(model, batch))
    assert plan.parameters == 784 * 128 + 128 + 128 * 10 + 10
    assert plan.rows == 64 * 9  # the categorical factor has rank c − 1
    assert plan.nbytes is not None
    assert plan.nbytes > 4 * plan.rows**2
    assert set(plan.others) == {"Cholesky", "CG"}
    assert "SampleSpace" in str(plan)
    assert "576 rows" in str(plan)


def test_an_unknown_solver_has_a_plan_without_a_prediction():
    model, batch = network(width=4, depth=1)
    optimiser = cv.NaturalGradient(cv.Supervised(cv.Categorical()), solver=lx.GMRES(1e-3, 1e-3))
    plan = optimiser.plan(model, batch)
    assert plan.gradients is None
    assert plan.nbytes is None
    assert "GMRES" in str(plan)


# --- too much for one solve ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "said"),
    [
        (cv.SampleSpace(max_rows=100), r"max_rows=100.*576 rows \(64 examples × 9\).*CG"),
        (cv.SampleSpace(max_memory=1e-3), r"max_memory=0.001.*about 0\.00.. GiB.*smaller batch"),
    ],
)
def test_sample_space_refuses_what_is_over_its_bounds(solver, said):
    model, batch = network(width=128, depth=1)
    with pytest.raises(ValueError, match=said):
        jax.eval_shape(lambda: solve(model, batch, np.float32(0.1), solver)[0])


@pytest.mark.parametrize("bad", [0, -1, True])
def test_bounds_are_checked(bad):
    with pytest.raises(ValueError, match="max_rows"):
        cv.SampleSpace(max_rows=bad)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan])
def test_memory_bounds_are_checked(bad):
    with pytest.raises(ValueError, match="max_memory"):
        cv.SampleSpace(max_memory=bad)
