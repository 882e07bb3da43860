"""The solvers for the curvature of networks in float32, and the rules of `Auto`."""

import functools

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
import numpy as np
import pytest

import curvature as cv
from curvature.solvers._base import Elementwise
from tests.curvature.tools import distance, flat, float64, jacobians
from tests.selection import slow_but

DAMPINGS = [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0]


def mlp(width, depth):
    """An MLP 784-…-10 in float32."""
    return eqx.nn.MLP(784, 10, width, depth, key=jax.random.key(0))


def images():
    """64 random images with labels; about three in ten pixels are black in all images."""
    rng = np.random.default_rng(0)
    x = (rng.random((64, 784)) * (rng.random(784) < 0.7)).astype(np.float32)
    return x, rng.integers(10, size=64).astype(np.int32)


def network(width, depth):
    return mlp(width, depth), images()


@eqx.filter_jit
def solve(model, batch, damping, solver):
    """(C + λI)⁻¹g for the Gauss–Newton matrix of the categorical likelihood, and g."""
    linearisation = cv.Supervised(cv.Categorical()).linearise(model, batch)
    operator = cv.damped(cv.GaussNewton().operator(linearisation), damping)
    solution = lx.linear_solve(operator, linearisation.grad, solver, throw=False)
    return solution.value, solution.stats, linearisation.grad


@eqx.filter_jit
def true_residual_and_quadratic(model, batch, damping, grad, x):
    """‖g − (C+λI)x‖/‖g‖ and ½xᵀ(C+λI)x − gᵀx, by `jax.jvp` and `jax.vjp` without the library."""
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


SIZES = [(128, 1, 1e-4, 100), (1070, 2, 1e-4, 100), (1070, 2, 0.0, 10)]


@pytest.mark.parametrize(("width", "depth", "rtol", "max_steps"), slow_but(SIZES[:1], SIZES))
def test_every_damping_is_solved_on_a_network_in_float32(width, depth, rtol, max_steps):
    """The solution is finite and lowers the quadratic, and the reported numbers are the true ones.

    The networks have up to two million weights.
    """
    model, batch = network(width, depth)
    assert flat(model).size > (1_990_000 if depth == 2 else 100_000)
    solver = cv.CG(rtol=rtol, max_steps=max_steps)
    for damping in np.float32(DAMPINGS if depth == 2 else DAMPINGS[::2]):
        x, stats, grad = solve(model, batch, damping, solver)
        assert all(np.isfinite(leaf).all() for leaf in jtu.tree_leaves(x)), damping
        with jax.enable_x64(True):
            judged = true_residual_and_quadratic(*float64((model, batch, damping, grad, x)))
            residual, quadratic = (float(number) for number in judged)
        assert quadratic < 0, damping
        assert float(stats["residual"]) == pytest.approx(residual, rel=0.02, abs=1e-6), damping
        assert float(stats["quadratic"]) == pytest.approx(quadratic, rel=1e-4), damping
        # It ends after `max_steps`, at the tolerance, or at the accuracy of float32.
        assert stats["num_steps"] == max_steps or residual <= max(1.01 * rtol, 2e-7), damping


@pytest.mark.parametrize("damping", slow_but([1.0], [1e-3, 1.0]))
def test_control_lineax_cg_gives_nan_on_a_network_twenty_times_smaller(damping):
    """`cv.CG` exists because `lineax.CG` fails here. If this test fails, it may not be needed."""
    model, batch = network(width=128, depth=1)
    x, _, _ = solve(model, batch, np.float32(damping), lx.CG(rtol=1e-3, atol=1e-6, max_steps=10))
    assert all(np.isnan(leaf).all() for leaf in jtu.tree_leaves(x))


# --- which solver ----------------------------------------------------------------------------


def small(n=6):
    """A layer with 8 weights, and n examples."""
    layer = eqx.nn.Linear(3, 2, key=jax.random.key(0))
    model = eqx.nn.Sequential([layer, eqx.nn.Lambda(jnp.tanh)])
    rng = np.random.default_rng(0)
    return model, (jnp.asarray(rng.standard_normal((n, 3))), jnp.asarray(rng.integers(2, size=n)))


def gauss_newton(model, batch, damping=1e-3):
    linearisation = cv.Supervised(cv.Categorical()).linearise(model, batch)
    return cv.damped(cv.GaussNewton().operator(linearisation), damping)


EXACT = {
    "sample_space": cv.SampleSpace(),
    "cg": cv.CG(rtol=1e-12, max_steps=300),
    "cholesky": lx.Cholesky(),
    "auto": cv.Auto(),
}


@functools.cache
def derivatives(name):
    """The solution, its derivative along one direction in (w, λ, b), and a gradient.

    The gradient is that of the product of the solution with a vector c.
    """
    with jax.enable_x64(True):
        model, batch = small()
        params, static = eqx.partition(model, eqx.is_inexact_array)
        w, unravel = jfu.ravel_pytree(params)
        rng = np.random.default_rng(3)
        b, c, dw, db = (jnp.asarray(rng.standard_normal(w.shape)) for _ in range(4))
        point, along = (w, jnp.asarray(0.1), b), (dw, jnp.asarray(1.0), db)

        def by_solver(w, damping, b):
            operator = gauss_newton(eqx.combine(unravel(w), static), batch, damping)
            return flat(lx.linear_solve(operator, unravel(b), EXACT[name]).value)

        def densely(w, damping, b):
            x, _ = batch
            here = eqx.combine(unravel(w), static)
            J, p = jacobians(here, x), jax.nn.softmax(jax.vmap(here)(x))
            M = jax.vmap(jnp.diag)(p) - p[:, :, None] * p[:, None, :]
            C = jnp.einsum("icp,icd,idq->pq", J, M, J) / len(x)
            return jnp.linalg.solve(C + damping * jnp.eye(len(w)), b)

        solve = densely if name == "dense" else by_solver

        @jax.jit
        def compiled():
            value, change = jax.jvp(solve, point, along)
            return value, change, jax.grad(lambda *at: c @ solve(*at), argnums=(0, 1, 2))(*point)

        return jax.device_get(compiled())


@pytest.mark.parametrize("name", slow_but(["sample_space"], EXACT))
def test_a_solve_and_its_derivatives_are_those_of_the_dense_inverse(name):
    """The derivatives are in the weights of C, in λ and in the vector, in both modes."""
    for found, expected in zip(
        jtu.tree_leaves(derivatives(name)), jtu.tree_leaves(derivatives("dense"))
    ):
        assert np.linalg.norm(expected) > 1e-3
        assert distance(found, expected) < 1e-8


def chosen(make, *args, auto=None, positive_damping=None):
    """The choice of `Auto` for `make(*args)`, which is only traced."""
    found = []

    def trace(args):
        auto_ = cv.Auto() if auto is None else auto
        found.append(auto_.choose(make(*args), positive_damping=positive_damping))

    eqx.filter_eval_shape(trace, args)
    return found[0]


def matrix(size):
    return cv.damped(lx.MatrixLinearOperator(jnp.eye(size), lx.positive_semidefinite_tag), 1e-3)


def repeated(batch, times):
    return jtu.tree_map(lambda leaf: np.tile(leaf, (times,) + (1,) * (leaf.ndim - 1)), batch)


def structured(structure):
    """A function (model, batch) -> the damped operator of a structure."""

    def make(model, batch):
        linearisation = cv.Supervised(cv.Categorical()).linearise(model, batch)
        return cv.damped(structure.operator(linearisation, key=jax.random.key(0)), 1e-3)

    return make


DIAGONAL = structured(cv.Diagonal(cv.GaussNewton()))
LOW_RANK = structured(cv.LowRank(cv.GaussNewton(), 3))
# The choice needs only shapes.
MEDIUM = eqx.filter_eval_shape(mlp, 128, 1), images()  # 100k weights, 64 × 9 rows
SMALL = eqx.filter_eval_shape(mlp, 4, 1), images()  # 3,190 weights


@pytest.mark.parametrize(
    ("make", "args", "solver"),
    [
        (matrix, (4096,), lx.Cholesky),
        (matrix, (4097,), cv.CG),
        # A diagonal C is solved by division, and another structure by its own inverse.
        (DIAGONAL, SMALL, Elementwise),
        (LOW_RANK, SMALL, cv.Structured),
        # There are few weights, and at least as many rows as weights.
        (gauss_newton, (SMALL[0], repeated(SMALL[1], 6)), lx.Cholesky),
        # There are fewer rows than weights, for few weights and for many.
        (gauss_newton, (SMALL[0], repeated(SMALL[1], 5)), cv.SampleSpace),
        (gauss_newton, MEDIUM, cv.SampleSpace),
        # There are many weights, and more than 4,096 rows.
        (gauss_newton, (MEDIUM[0], repeated(MEDIUM[1], 8)), cv.CG),
    ],
)
def test_auto_chooses_by_its_rules(make, args, solver):
    assert type(chosen(make, *args)) is solver


def test_auto_does_not_factorise_where_damping_may_be_zero():
    many, too_many = ((SMALL[0], repeated(SMALL[1], times)) for times in (6, 8))
    assert type(chosen(gauss_newton, *many, positive_damping=False)) is cv.SampleSpace
    assert type(chosen(gauss_newton, *too_many, positive_damping=False)) is cv.CG
    assert type(cv.Auto().choose(cv.damped(matrix(9).operator, 0.0))) is cv.CG


@pytest.mark.usefixtures("as_installed")
def test_auto_has_the_least_norm_solution_without_damping(x64):
    """`lineax.linear_solve` traces λ, so `damped` notes that it is zero. C is singular."""
    model = eqx.nn.Linear(3, 4, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (50, 3))
    here = cv.Supervised(cv.Categorical()).linearise(model, (x, jnp.zeros(50, int)))
    C = cv.GaussNewton().operator(here)
    found = lx.linear_solve(cv.damped(C, 0.0), here.grad, cv.Auto(), throw=False).value
    expected = np.linalg.pinv(C.as_matrix(), rcond=1e-10, hermitian=True) @ flat(here.grad)
    # With more rows than weights the error is √eps; Cholesky's method would have no digits.
    assert distance(flat(found), expected) <= 1e-3


def test_auto_takes_the_inverse_of_a_structure_only_where_damping_is_positive():
    assert type(chosen(LOW_RANK, *SMALL, positive_damping=False)) is cv.CG
    assert type(chosen(lambda *at: LOW_RANK(*at).operator, *SMALL)) is cv.CG
    assert type(chosen(DIAGONAL, *SMALL, positive_damping=False)) is Elementwise


def test_an_operator_whose_inverse_is_not_known_is_refused():
    said = r"`Structured\(\)` needs a .* `MatrixLinearOperator` has none\. .*`solver=auto`"
    with pytest.raises(ValueError, match=said):
        lx.linear_solve(matrix(3), jnp.ones(3), cv.Structured())


@pytest.mark.parametrize(
    ("curvature", "solver"),
    [
        (cv.Diagonal(cv.GaussNewton()), "Elementwise"),
        (cv.LowRank(cv.GaussNewton(), 3), "Structured"),
    ],
)
def test_the_plan_of_a_structure_names_its_solver(curvature, solver):
    plan = cv.NaturalGradient(cv.Supervised(cv.Categorical()), curvature).plan(
        *SMALL, key=jax.random.key(0)
    )
    assert not plan.others
    assert str(plan).startswith(f"3,190 parameters; {solver}")
    assert "; diagonal: all weights" in str(plan) or "; rank 3: all weights" in str(plan)


def test_the_plan_of_a_structure_counts_its_computation():
    model, batch = MEDIUM
    objective, key = cv.Supervised(cv.Categorical()), jax.random.key(0)

    def predicted(curvature):
        return cv.NaturalGradient(objective, curvature).plan(model, batch, key=key).gradients

    n, inputs, outputs, width = 64, 785, 129, 128
    gradient = n * 2 * (2 * 784 * width + 3 * width * 10)  # without cotangents of the inputs
    second_moments = 2 * n * (inputs**2 + outputs**2 + width**2) * 2 / 3  # of symmetric matrices
    bases, solve = (
        9 * (inputs**3 + outputs**3 + width**3),
        4 * width * inputs * (inputs + width),
    )
    known = 2 + (second_moments + bases + solve) / gradient
    assert predicted(cv.KFAC(cv.SampledFisher(1))) == pytest.approx(known, rel=0.2)
    # `LowRank` computes one product with C per rank.
    few, many = (predicted(cv.LowRank(cv.GaussNewton(), rank)) for rank in (4, 16))
    assert many > 2 * few


def test_auto_chooses_the_solvers_that_it_was_given():
    own = cv.CG(rtol=1e-2, max_steps=5)
    few = cv.Auto(cg=own, sample_space=cv.SampleSpace(max_rows=5))
    assert chosen(gauss_newton, *MEDIUM, auto=few) is own
    small_memory = cv.Auto(cg=own, sample_space=cv.SampleSpace(max_memory=1e-3))
    assert chosen(gauss_newton, *MEDIUM, auto=small_memory) is own
    sample_space = cv.SampleSpace(max_rows=1000)
    found = chosen(gauss_newton, *MEDIUM, auto=cv.Auto(sample_space=sample_space))
    assert found == sample_space


def test_a_plan_says_what_it_counted():
    model, batch = MEDIUM
    plan = cv.NaturalGradient(cv.Supervised(cv.Categorical())).plan(model, batch)
    assert isinstance(plan.solver, cv.SampleSpace)
    assert plan.parameters == 784 * 128 + 128 + 128 * 10 + 10
    assert plan.rows == 64 * 9  # the categorical factor has rank c − 1
    assert plan.nbytes is not None
    assert plan.nbytes > 4 * plan.rows**2
    assert set(plan.others) == {"Cholesky", "CG"}
    assert "SampleSpace" in str(plan)
    assert "576 rows" in str(plan)


@pytest.mark.parametrize("steps", [1, 7])
def test_the_plan_of_an_iteration_counts_a_gradient_per_step(steps):
    solver = cv.CG(rtol=0.0, max_steps=steps)
    plan = cv.NaturalGradient(cv.Supervised(cv.Categorical()), solver=solver).plan(*MEDIUM)
    assert plan.solver == solver
    assert plan.gradients == pytest.approx(1.0 + steps)


def test_an_unknown_solver_has_a_plan_without_a_prediction():
    optimiser = cv.NaturalGradient(cv.Supervised(cv.Categorical()), solver=lx.GMRES(1e-3, 1e-3))
    plan = optimiser.plan(*SMALL)
    assert plan.gradients is None
    assert plan.nbytes is None
    assert "GMRES" in str(plan)


# --- problems that are too large -------------------------------------------------------------


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
