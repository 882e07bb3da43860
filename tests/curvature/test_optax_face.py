"""`scale_by_curvature`: the direction of `NaturalGradient` as an optax transformation."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import optimistix as optx
import pytest

import curvature as cv
from tests.curvature.invertible import Whole
from tests.curvature.written import MODELS, SOLVERS, Written, at, flat, one_layer, penalised
from tests.selection import slow_but

# Optax needs the standard promotion.
pytestmark = pytest.mark.usefixtures("standard_promotion", "as_installed")

DAMPING, L2, RATE, STEPS = 0.03, 0.2, 0.7, 3
CATEGORICAL = cv.Supervised(cv.Categorical())


def case_of(kind="one layer", l2=0.0):
    case = MODELS[kind]("categorical")
    return replace(case, objective=penalised(case, l2)) if l2 else case


def batches_of(case):
    """A different batch for every step."""
    x, y = case.batch
    return [((k + 1.0) * x, y) for k in range(STEPS)]


def dense(case, vector, l2=0.0):
    """(C + (λ + l2) I)⁻¹ v with the dense Gauss–Newton matrix C."""
    written = Written(case, "gauss_newton")
    _, _, C = written(written.w)
    return np.linalg.solve(C + (DAMPING + l2) * np.eye(len(C)), vector)


# --- the steps ---------------------------------------------------------------------------------

SETTINGS = {
    "sample space": {"solver": SOLVERS["sample space"]},
    "CG, preconditioned": {
        "solver": SOLVERS["CG"],
        "preconditioner": Whole(cv.EmpiricalFisher(), diagonal=True),
    },
    "average of samples": {
        "curvature": cv.MovingAverage(cv.SampledFisher(2)),
        "solver": lx.Cholesky(),
    },
    "schedule": {
        "solver": lx.Cholesky(),
        "damping": cv.ScheduledDamping(optax.exponential_decay(0.1, 1, 0.5)),
    },
}


@pytest.mark.parametrize("name", slow_but(["CG, preconditioned"], SETTINGS))
def test_a_plain_optax_loop_makes_the_steps_of_natural_gradient(x64, name):
    case = case_of(l2=L2)
    parts = {"damping": DAMPING, **SETTINGS[name]}
    opt = cv.NaturalGradient(case.objective, search=optx.LearningRate(RATE), **parts)
    tx = optax.chain(
        cv.scale_by_curvature(case.objective, **parts, model=case.model, batch=case.batch),
        optax.scale(-RATE),
    )
    keys = jax.random.split(jax.random.key(1), STEPS)
    model, state = case.model, opt.init(case.model, batch=case.batch)
    params, static = eqx.partition(case.model, eqx.is_inexact_array)
    tx_state = tx.init(params)

    @eqx.filter_jit
    def update(params, tx_state, batch, key):
        here = eqx.combine(params, static)
        grad = eqx.filter_grad(lambda m: case.objective.loss(m, batch))(here)
        updates, tx_state = tx.update(grad, tx_state, params, model=here, batch=batch, key=key)
        return optax.apply_updates(params, updates), tx_state

    for batch, key in zip(batches_of(case), keys, strict=True):
        model, state, info = opt.step(model, batch, state, key=key)
        params, tx_state = update(params, tx_state, batch, key)
        np.testing.assert_allclose(flat(params), flat(model), rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(tx_state[0].solver_residual, info.solver_residual, atol=1e-10)
        assert info.accepted


def test_first_order_with_it_in_a_chain_makes_the_steps_of_natural_gradient(x64):
    case = case_of(l2=L2)
    parts = {"curvature": cv.SampledFisher(2), "solver": lx.Cholesky(), "damping": DAMPING}
    opt = cv.NaturalGradient(case.objective, search=optx.LearningRate(RATE), **parts)
    scaled = cv.scale_by_curvature(case.objective, **parts)
    other = cv.FirstOrder(case.objective, optax.chain(scaled, optax.scale(-RATE)))
    model, state = case.model, opt.init(case.model)
    other_model, other_state = case.model, other.init(case.model)
    for batch, key in zip(batches_of(case), jax.random.split(jax.random.key(1), STEPS)):
        model, state, _ = opt.step(model, batch, state, key=key)
        other_model, other_state, info = other.step(other_model, batch, other_state, key=key)
        np.testing.assert_allclose(flat(other_model), flat(model), rtol=1e-9, atol=1e-11)
        assert info.accepted


@pytest.mark.parametrize("solver", slow_but(["sample space"], SOLVERS))
def test_any_vector_is_solved_for(x64, solver):
    """`SampleSpace` has a special solve for the gradient; an arbitrary vector must work, too."""
    case = case_of(l2=L2)
    tx = cv.scale_by_curvature(case.objective, solver=SOLVERS[solver], damping=DAMPING)
    params = eqx.filter(case.model, eqx.is_inexact_array)
    ravelled, unravel = jfu.ravel_pytree(params)
    vector = np.random.default_rng(0).normal(size=ravelled.shape)
    found, state = tx.update(
        unravel(jnp.asarray(vector)), tx.init(params), params, model=case.model, batch=case.batch
    )
    np.testing.assert_allclose(flat(found), dense(case, vector, L2), rtol=1e-8)
    assert state.count == 1
    assert state.solver_residual < 1e-10


# --- composition -------------------------------------------------------------------------------


def gradient(case):
    return eqx.filter_jit(eqx.filter_grad(lambda m: case.objective.loss(m, case.batch)))(case.model)


def test_it_chains_with_clipping_decay_and_trace(x64):
    """Each transformation acts on the direction; the trace adds the first update to the second."""
    case, most = case_of(), 1e-2
    tx = optax.chain(
        cv.scale_by_curvature(case.objective, solver=lx.Cholesky(), damping=DAMPING),
        optax.add_decayed_weights(0.1),
        optax.clip_by_global_norm(most),
        optax.trace(0.9),
        optax.scale_by_learning_rate(RATE),
    )
    params, grad = eqx.filter(case.model, eqx.is_inexact_array), gradient(case)
    state, found = tx.init(params), []
    update = eqx.filter_jit(tx.update)
    for _ in range(2):
        updates, state = update(grad, state, params, model=case.model, batch=case.batch)
        found.append(flat(updates))
    d = dense(case, flat(grad)) + 0.1 * flat(params)
    assert np.linalg.norm(d) > most
    clipped = d * most / np.linalg.norm(d)
    np.testing.assert_allclose(found[0], -RATE * clipped, rtol=1e-8)
    np.testing.assert_allclose(found[1], -RATE * 1.9 * clipped, rtol=1e-8)


@pytest.mark.parametrize("masked", [False, True])
def test_frozen_weights_are_no_part_of_the_curvature(x64, masked):
    """The frozen weights are None in the updates, or `optax.masked` leaves them out."""
    case = case_of("frozen")
    tx = cv.scale_by_curvature(case.objective, solver=lx.Cholesky(), damping=DAMPING)
    extra = {"model": case.model, "batch": case.batch}
    grad = gradient(case)
    trained = eqx.filter(grad, case.trainable)
    expected = dense(case, flat(trained))
    if masked:
        params = eqx.filter(case.model, eqx.is_inexact_array)
        tx = optax.masked(tx, case.trainable)
        found, _ = tx.update(grad, tx.init(params), params, **extra)
        untouched = eqx.filter(found, case.trainable, inverse=True)
        np.testing.assert_array_equal(
            flat(untouched), flat(eqx.filter(grad, case.trainable, inverse=True))
        )
        found = eqx.filter(found, case.trainable)
    else:
        found, _ = tx.update(trained, tx.init(trained), trained, **extra)
    np.testing.assert_allclose(flat(found), expected, rtol=1e-8)


def test_multi_steps_gives_it_the_mean_of_the_gradients(x64):
    case = case_of()
    inner = cv.scale_by_curvature(case.objective, solver=lx.Cholesky(), damping=DAMPING)
    tx = optax.MultiSteps(inner, every_k_schedule=2, accumulator_dtype=jnp.float64)
    params, grad = eqx.filter(case.model, eqx.is_inexact_array), gradient(case)
    grads = jax.tree.map(lambda g: jnp.stack([3 * g, g]), grad)

    @eqx.filter_jit
    def run(model, batch, grads):
        def body(state, grad):
            updates, state = tx.update(grad, state, params, model=model, batch=batch)
            return state, updates

        return jax.lax.scan(body, tx.init(params), grads)

    state, updates = run(case.model, case.batch, grads)
    assert not np.any(flat(at(updates, 0)))
    np.testing.assert_allclose(flat(at(updates, 1)), dense(case, 2 * flat(grad)), rtol=1e-8)
    assert state.inner_opt_state.count == 1


def test_a_batch_that_is_not_finite_does_not_change_the_state_of_a_curvature(x64):
    case = case_of()
    x, y = case.batch
    tx = cv.scale_by_curvature(
        case.objective,
        cv.Identity(),
        preconditioner=Whole(cv.GaussNewton()),
        model=case.model,
        batch=case.batch,
    )
    params = eqx.filter(case.model, eqx.is_inexact_array)
    state, counts = tx.init(params), []
    for bad in (0.0, np.nan, 0.0):
        _, state = tx.update(params, state, model=case.model, batch=(x + bad, y))
        counts.append(int(state.curvature.preconditioner))
    assert counts == [1, 1, 2]
    assert state.count == 3


def test_half_precision_keeps_its_types():
    model = jax.tree.map(lambda a: a.astype(jnp.bfloat16), one_layer())
    batch = jnp.ones((4, 3), jnp.bfloat16), jnp.zeros(4, jnp.int32)
    tx = cv.scale_by_curvature(CATEGORICAL, damping=DAMPING)
    state = tx.init(model)
    updates, after = eqx.filter_eval_shape(tx.update, model, state, model=model, batch=batch)
    assert [leaf.dtype for leaf in jax.tree.leaves(updates)] == [jnp.bfloat16]
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert (new.shape, new.dtype, new.weak_type) == (old.shape, old.dtype, old.weak_type)


# --- refusals ----------------------------------------------------------------------------------


def test_a_damping_that_needs_the_reduction_ratio_is_refused():
    with pytest.raises(ValueError, match=r"got `LevenbergMarquardt`.*use `NaturalGradient`"):
        cv.scale_by_curvature(CATEGORICAL, damping=cv.LevenbergMarquardt())


def test_a_state_of_unknown_shape_asks_for_model_and_batch():
    tx = cv.scale_by_curvature(CATEGORICAL, cv.MovingAverage(cv.GaussNewton()))
    with pytest.raises(ValueError, match=r"model=model, batch=batch.*or as shapes"):
        tx.init(one_layer())


def test_an_update_without_a_batch_and_updates_of_another_model_are_refused():
    model, batch = one_layer(), (jnp.ones((4, 3)), jnp.zeros(4, jnp.int32))
    tx = cv.scale_by_curvature(CATEGORICAL)
    state = tx.init(model)
    with pytest.raises(ValueError, match=r"Pass both by name|got no batch"):
        tx.update(model, state, model, model=model)
    _, static = eqx.partition(model, eqx.is_inexact_array)
    wrong = [one_layer(inputs=2), {"w": jnp.ones(3)}]
    for updates, given in [*((updates, model) for updates in wrong), (model, static)]:
        with pytest.raises(ValueError, match="must be the trainable part of the model"):
            tx.update(updates, state, model=given, batch=batch)
