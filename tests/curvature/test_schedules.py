"""Schedules of λ, of the step size and of the trust region, and what their states survive."""

import io
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optax
import optimistix as optx
import pytest

import curvature as cv
from tests.selection import slow_but

pytestmark = pytest.mark.usefixtures("standard_promotion")

STEPS, BAD = 5, 2
DAMPING = optax.exponential_decay(1e-1, 2, 0.5)
STEP_SIZE = optax.linear_schedule(0.5, 0.1, 4)
DELTA = optax.cosine_decay_schedule(1e-3, 8)


class Passes(list):
    __hash__ = object.__hash__
    __eq__ = object.__eq__


class Traced(eqx.Module):
    """A small network that notes every time Python runs through it."""

    mlp: eqx.nn.MLP
    passes: list = eqx.field(static=True)

    def __init__(self, dtype):
        key = jax.random.key(0)
        self.mlp = eqx.nn.MLP(3, 2, 4, 1, activation=jnp.tanh, key=key, dtype=dtype)
        self.passes = Passes()

    def __call__(self, x):
        self.passes.append(None)
        return self.mlp(x)


def data(dtype, bad=None):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((STEPS, 6, 3)), dtype)
    y = jnp.asarray(rng.integers(2, size=(STEPS, 6)))
    return (x if bad is None else x.at[bad, 0, 0].set(jnp.nan)), y


OPTIMISERS = {
    "scheduled": lambda: cv.NaturalGradient(
        cv.Supervised(cv.Categorical()),
        damping=cv.ScheduledDamping(DAMPING),
        search=cv.ScheduledLearningRate(STEP_SIZE),
    ),
    "judged, SPRING, penalty, part of the batch": lambda: cv.NaturalGradient(
        cv.Supervised(cv.Categorical(), l2=1e-2),
        curvature=cv.SampledFisher(1),
        damping=cv.LevenbergMarquardt(next_batch=True),
        momentum=cv.Spring(0.9),
        search=cv.ScheduledLearningRate(STEP_SIZE),
        curvature_batch=4,
    ),
    "trust region, plane": lambda: cv.NaturalGradient(
        cv.Supervised(cv.Categorical(), l2=1e-2),
        solver=cv.CG(rtol=1e-2, max_steps=3),
        damping=cv.ScheduledDamping(DAMPING),
        momentum=cv.QuadraticMomentum(),
        search=cv.KLTrustRegion(delta=DELTA),
    ),
}


def types(tree):
    leaves, treedef = jtu.tree_flatten(tree)
    return treedef, [(jnp.shape(a), a.dtype, a.weak_type) for a in leaves if eqx.is_array(a)]


def close(a, b, dtype, rtol=1e-9):
    rtol = rtol if dtype == "float64" else 1e-3
    for one, other in zip(jtu.tree_leaves(a), jtu.tree_leaves(b), strict=True):
        if eqx.is_array(one) and jnp.issubdtype(one.dtype, jnp.inexact):
            np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol)


QUICK = [("judged, SPRING, penalty, part of the batch", "float32")]


ALL = [*itertools.product(OPTIMISERS, ["float32", "float64"])]


@pytest.mark.parametrize(("name", "dtype"), slow_but(QUICK, ALL))
def test_one_trace_and_the_same_numbers_in_scan_and_vmap_and_after_a_resume(x64, name, dtype):
    optimiser, first, (x, y) = OPTIMISERS[name](), Traced(dtype), data(dtype)
    keys = jax.random.split(jax.random.key(0), STEPS)
    model, state = first, optimiser.init(first)
    before, infos, saved = types((model, state)), [], None
    for k in range(STEPS):
        model, state, info = optimiser.step(model, (x[k], y[k]), state, key=keys[k])
        assert types((model, state)) == before
        infos.append(info)
        if k == 0:
            once = len(first.passes)
        if k == 2:
            file = io.BytesIO()
            eqx.tree_serialise_leaves(file, (model, state))
            file.seek(0)
            saved = eqx.tree_deserialise_leaves(file, (first, optimiser.init(first)))
    assert all(info.accepted for info in infos)
    for k in range(3, STEPS):
        saved = optimiser.step(saved[0], (x[k], y[k]), saved[1], key=keys[k])[:2]
    assert len(first.passes) == once
    assert eqx.tree_equal(saved, (model, state))

    params, static = eqx.partition(first, eqx.is_array)

    def run(params):
        def body(carry, each):
            *batch, key = each
            new, state, info = optimiser.step(
                eqx.combine(carry[0], static), tuple(batch), carry[1], key=key
            )
            return (eqx.filter(new, eqx.is_array), state), info

        return jax.lax.scan(body, (params, optimiser.init(first)), (x, y, keys))

    double = jtu.tree_map(lambda a: jnp.stack([a, a]), params)
    (many, many_states), many_infos = jax.jit(jax.vmap(run))(double)
    close(jtu.tree_map(lambda a: a[1], many), eqx.filter(model, eqx.is_array), dtype)
    close(jtu.tree_map(lambda a: a[1], many_states), state, dtype, 1e-6)
    rtol = 1e-6 if dtype == "float64" else 1e-3
    np.testing.assert_allclose(many_infos.damping[1], [i.damping for i in infos], rtol=rtol)


def test_damping_and_step_size_follow_their_schedules(x64):
    """A batch that is not finite is a step, too. Optax computes in single precision."""
    optimiser, model, (x, y) = OPTIMISERS["scheduled"](), Traced("float64"), data("float64", BAD)
    state = optimiser.init(model)
    for k in range(STEPS):
        new, state, info = optimiser.step(model, (x[k], y[k]), state)
        np.testing.assert_allclose(info.damping, DAMPING(k), rtol=1e-6)
        assert info.accepted == (k != BAD)
        if info.accepted:
            whole = cv.NaturalGradient(optimiser.objective, damping=float(info.damping))
            _, _, full = whole.step(model, (x[k], y[k]), whole.init(model))
            np.testing.assert_allclose(info.step_norm, STEP_SIZE(k) * full.step_norm, rtol=1e-6)
        model = new
    assert state.steps == STEPS


def test_the_trust_region_follows_its_schedule(x64):
    """½δᵀCδ is at the bound, where the gradient is far from zero; without its bad batches."""
    optimiser = cv.NaturalGradient(
        cv.Supervised(cv.Categorical()), damping=1e-2, search=cv.KLTrustRegion(delta=DELTA)
    )
    model, (x, y) = Traced("float64"), data("float64", BAD)
    state = optimiser.init(model)
    for k in range(STEPS):
        model, state, info = optimiser.step(model, (x[k], y[k]), state)
        if k != BAD:
            bound = DELTA(k if k < BAD else k - 1)
            np.testing.assert_allclose(info.metric_step, bound, rtol=1e-6)


def test_schedules_are_functions(as_installed):
    for policy in (cv.ScheduledDamping, cv.ScheduledLearningRate):
        with pytest.raises(ValueError, match=rf"`{policy.__name__}\(schedule=...\)` must be a"):
            policy(1e-3)
    with pytest.raises(ValueError, match=r"`KLTrustRegion\(delta=...\)` must be a positive"):
        cv.KLTrustRegion(delta=-1.0)


def test_a_damping_that_starts_from_zero_is_refused(as_installed):
    optimiser = cv.NaturalGradient(
        cv.Supervised(cv.Categorical()),
        damping=cv.ScheduledDamping(optax.linear_schedule(0.0, 1.0, 10)),
    )
    with pytest.raises(ValueError, match=r"`ScheduledDamping\(schedule=...\)\(0\)` must be a pos"):
        optimiser.init(Traced("float32"))


def test_a_search_that_is_scheduled_looks_at_no_loss():
    assert isinstance(cv.ScheduledLearningRate(STEP_SIZE), optx.AbstractSearch)
