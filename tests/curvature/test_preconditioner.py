"""A preconditioner changes the number of CG steps, but not the solution."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import curvature as cv
from tests.curvature.invertible import Whole
from tests.curvature.written import (
    MODELS,
    Written,
    flat,
    one_layer,
    penalised,
    poisoned,
    trajectory,
)
from tests.selection import slow_but

pytestmark = pytest.mark.usefixtures("as_installed")

DAMPING, L2 = 0.03, 0.2
EXACT = cv.CG(rtol=1e-12, max_steps=200)
CATEGORICAL = cv.Supervised(cv.Categorical())


def one_step(case, key=None, **parts):
    """The change of the weights in one step (old minus new), and its `Info`."""
    opt = cv.NaturalGradient(case.objective, **parts)
    state = opt.init(case.model, case.trainable, case.batch)
    model, _, info = opt.step(case.model, case.batch, state, key=key)
    before, after = (flat(eqx.filter(m, case.trainable)) for m in (case.model, model))
    return before - after, info


def case_of(kind, l2=0.0):
    case = MODELS[kind]("categorical")
    return replace(case, objective=penalised(case, l2)) if l2 else case


KINDS = [("one layer", L2, False), ("one layer", 0.0, True), ("several_terms", L2, True)]


@pytest.mark.parametrize(("kind", "l2", "warm"), slow_but(KINDS[:1], KINDS))
def test_a_preconditioner_does_not_change_a_converged_step(x64, kind, l2, warm):
    case = case_of(kind, l2=l2)
    preconditioner = Whole(cv.EmpiricalFisher(), diagonal=True)
    opt = cv.NaturalGradient(
        case.objective,
        solver=EXACT,
        preconditioner=preconditioner,
        damping=DAMPING,
        momentum=cv.WarmStart(0.9) if warm else None,
    )
    plain = cv.NaturalGradient(case.objective, solver=lx.Cholesky(), damping=DAMPING)
    keys = jax.random.split(jax.random.key(0), 3)
    found, infos = trajectory(case, opt, keys)
    expected, _ = trajectory(case, plain, keys)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)
    assert infos.solver_residual.max() <= 1e-12


@pytest.mark.parametrize("l2", slow_but([L2], [0.0, L2]))
def test_the_exact_inverse_takes_one_step(x64, l2):
    """The inverse includes the λ of the step and the penalty."""
    case = case_of("one layer", l2=l2)
    step, info = one_step(
        case, solver=EXACT, preconditioner=Whole(cv.GaussNewton()), damping=DAMPING
    )
    expected, _ = one_step(case, solver=lx.Cholesky(), damping=DAMPING)
    np.testing.assert_allclose(step, expected, rtol=1e-9, atol=1e-12)
    assert info.solver_steps == 1


def test_one_step_is_along_the_preconditioned_gradient(x64):
    """The direction is α M g, where α minimises the quadratic model."""
    case = case_of("one layer")
    step, info = one_step(
        case,
        solver=cv.CG(rtol=0.0, max_steps=1),
        preconditioner=Whole(cv.EmpiricalFisher(), diagonal=True),
        damping=DAMPING,
    )
    written = Written(case, "gauss_newton")
    (_, g, C), (_, _, fisher) = written(written.w), Written(case, "empirical_fisher")(written.w)
    Mg = g / (np.diag(fisher) + DAMPING)
    alpha = g @ Mg / (Mg @ (C + DAMPING * np.eye(len(g))) @ Mg)
    np.testing.assert_allclose(step, alpha * Mg, rtol=1e-9)
    assert info.solver_steps == 1


@pytest.mark.parametrize("l2", slow_but([L2], [0.0, L2]))
def test_preconditioned_makes_the_steps_of_one_cg_iteration(x64, l2):
    """`QuadraticMomentum` chooses the length along Mg from the exact quadratic model."""
    case, steps = case_of("one layer", l2=l2), []
    for solver in (cv.CG(rtol=0.0, max_steps=1), cv.Preconditioned()):
        opt = cv.NaturalGradient(
            case.objective,
            solver=solver,
            preconditioner=Whole(cv.EmpiricalFisher(), diagonal=True),
            damping=cv.LevenbergMarquardt(DAMPING),
            momentum=cv.QuadraticMomentum(),
        )
        model, state = case.model, opt.init(case.model, case.trainable, case.batch)
        for _ in range(3):
            model, state, info = opt.step(model, case.batch, state)
            assert info.accepted
        steps.append((flat(eqx.filter(model, case.trainable)), info.metric_step, info.damping))
    for one, other in zip(*steps, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)
    assert info.solver_steps == 0
    assert info.solver_residual is None


def test_the_preconditioner_has_its_own_draws(x64):
    case, key, fisher = case_of("one layer"), jax.random.key(3), cv.SampledFisher(2)
    parts = {"curvature": fisher, "damping": DAMPING, "key": key}
    plain, _ = one_step(case, solver=lx.Cholesky(), **parts)
    step, info = one_step(case, solver=EXACT, preconditioner=Whole(fisher), **parts)
    np.testing.assert_allclose(step, plain, rtol=1e-9, atol=1e-12)
    assert info.solver_steps > 1, "with the draws of the curvature it would be the exact inverse"


def test_a_batch_that_is_not_finite_does_not_change_its_state(x64):
    case = case_of("one layer")
    batches = poisoned(case, 3, 1)
    opt = cv.NaturalGradient(
        case.objective, cv.Identity(), preconditioner=Whole(cv.GaussNewton()), damping=DAMPING
    )
    model, state, counts = case.model, opt.init(case.model, batch=case.batch), []
    for k in range(3):
        batch = jax.tree.map(lambda leaf, k=k: leaf[k], batches)
        model, state, info = opt.step(model, batch, state)
        counts.append(int(state.preconditioner))
        assert info.solver == "CG"
    assert counts == [1, 1, 2]


# --- derivatives -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", slow_but(["grad"], ["grad", "jvp"]))
def test_derivatives_through_a_step_are_finite_differences(x64, mode):
    """The derivatives are in λ, `l2`, the weights and the targets.

    The derivative of the preconditioner has no effect, since the solution does not depend on it.
    """
    rng = np.random.default_rng(0)
    x, targets, weight = (jnp.asarray(rng.normal(size=n)) for n in ((4, 6), (4, 2), (2, 6)))
    point = {"damping": jnp.asarray(0.3), "l2": jnp.asarray(0.2), "w": weight, "y": targets}
    along = jax.tree.map(lambda a: jnp.cos(jnp.arange(jnp.size(a)).reshape(a.shape)), point)

    @jax.jit
    def loss(at):
        objective, batch = cv.Supervised(cv.Gaussian(), l2=at["l2"]), (x, at["y"])
        opt = cv.NaturalGradient(
            objective,
            solver=EXACT,
            preconditioner=Whole(cv.EmpiricalFisher()),
            damping=at["damping"],
        )
        model = eqx.tree_at(lambda m: m.linear.weight, one_layer(6, 2), at["w"])
        model, _, _ = opt.step(model, batch, opt.init(model, batch=batch))
        return objective.loss(model, batch)

    def moved(t):
        return jax.tree.map(lambda a, v: a + t * v, point, along)

    h = 1e-5
    expected = (loss(moved(h)) - loss(moved(-h))) / (2 * h)
    if mode == "jvp":
        _, found = jax.jvp(loss, (point,), (along,))
    else:
        grads = jax.jit(jax.grad(loss))(point)
        found = sum(jax.tree.leaves(jax.tree.map(lambda g, v: jnp.vdot(g, v), grads, along)))
    assert abs(expected) > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-7)


# --- choice and cost of the solver -------------------------------------------------------------


def test_auto_takes_its_cg_and_the_plan_has_the_cost():
    """The plan includes the preconditioner: a product at each step, and one at the start."""
    case, own = MODELS["one layer"]("categorical"), cv.CG(rtol=1e-2, max_steps=7)
    plain, plan = (
        cv.NaturalGradient(case.objective, solver=solver, preconditioner=of).plan(
            case.model, case.batch
        )
        for solver, of in ((own, None), (cv.Auto(cg=own), Whole(cv.GaussNewton())))
    )
    assert plan.solver == own
    assert plan.preconditioner > 0
    assert plan.gradients == pytest.approx(plain.gradients + plan.preconditioner)
    assert plan.nbytes > plain.nbytes
    assert "for the preconditioner" in str(plan)
    assert plain.preconditioner is None


def test_auto_as_a_solver_of_lineax_takes_its_cg_for_a_preconditioner(x64):
    A = jnp.diag(jnp.arange(1.0, 5.0))
    operator, M = (
        lx.MatrixLinearOperator(m, lx.positive_semidefinite_tag) for m in (A, jnp.linalg.inv(A))
    )
    found = lx.linear_solve(
        cv.damped(operator, 0.0), jnp.ones(4), cv.Auto(), options={"preconditioner": M}
    )
    np.testing.assert_allclose(found.value, 1 / jnp.diag(A), rtol=1e-12)
    assert found.stats["num_steps"] == 1


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [cv.SampleSpace(), lx.Cholesky()])
def test_a_solver_that_takes_no_preconditioner_is_refused(solver):
    said = rf"The solver `{type(solver).__name__}` does not take a preconditioner.*Use `solver=CG"
    with pytest.raises(ValueError, match=said):
        cv.NaturalGradient(CATEGORICAL, solver=solver, preconditioner=Whole(cv.GaussNewton()))


def test_own_damping_replaces_the_damping_of_the_step(x64):
    case, own = case_of("one layer"), 0.7
    of = cv.Diagonal(cv.EmpiricalFisher())
    parts = {"solver": cv.Preconditioned(), "damping": DAMPING}
    step, _ = one_step(case, preconditioner=cv.OwnDamping(of, own), **parts)
    _, g, fisher = Written(case, "empirical_fisher")(flat(case.model))
    np.testing.assert_allclose(step, g / (np.diag(fisher) + own), rtol=1e-9)
    # As the curvature of a step, the solution for λ₀ has a residual for λ, which is reported.
    step, info = one_step(case, curvature=cv.OwnDamping(of, own), damping=DAMPING)
    residual = (own - DAMPING) * np.linalg.norm(step) / np.linalg.norm(g)
    np.testing.assert_allclose(info.solver_residual, residual, rtol=1e-9)


def test_own_damping_needs_a_structure_and_a_positive_damping():
    case = MODELS["one layer"]("categorical")
    here = case.objective.linearise(case.model, case.batch)
    with pytest.raises(ValueError, match=r"`OwnDamping\(of=...\)`.*got `GaussNewton`"):
        cv.OwnDamping(cv.GaussNewton(), 1.0).operator(here)
    with pytest.raises(ValueError, match=r"OwnDamping\(damping=...\)"):
        cv.OwnDamping(cv.Diagonal(cv.GaussNewton()), 0.0)


@pytest.mark.usefixtures("as_installed")
def test_a_step_with_its_own_damping_has_no_derivative(x64):
    case = case_of("one layer")

    def length(damping):
        own = cv.OwnDamping(cv.Diagonal(cv.EmpiricalFisher()), 0.7)
        opt = cv.NaturalGradient(case.objective, own, damping=damping)
        state = opt.init(case.model, batch=case.batch)
        new, _, _ = opt.step(case.model, case.batch, state)
        return jnp.sum(flat(new) ** 2)

    with pytest.raises(ValueError, match=r"`OwnDamping\(of, damping\)` has no derivative"):
        jax.grad(length)(jnp.asarray(DAMPING))


def test_preconditioned_without_a_preconditioner_is_refused():
    with pytest.raises(
        ValueError, match=r"needs a preconditioner, got none\. Set `preconditioner="
    ):
        cv.NaturalGradient(CATEGORICAL, solver=cv.Preconditioned())


def test_a_curvature_without_a_known_inverse_is_refused():
    case = MODELS["one layer"]("categorical")
    opt = cv.NaturalGradient(case.objective, preconditioner=cv.GaussNewton())
    said = (
        r"damped inverse.*got `GaussNewton`, and its operator `PullbackOperator` has no `inverse`"
    )
    with pytest.raises(ValueError, match=said):
        eqx.filter_eval_shape(opt.step, case.model, case.batch, opt.init(case.model))


def test_a_preconditioner_with_a_state_asks_for_a_batch():
    opt = cv.NaturalGradient(CATEGORICAL, preconditioner=Whole(cv.GaussNewton()))
    with pytest.raises(ValueError, match="pass a batch"):
        opt.init(one_layer())
