"""A step is traced once per batch shape, and `scan` and `vmap` do not change its numbers."""

import io

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optax
import optimistix as optx
import pytest

import curvature as cv
from tests.curvature.invertible import Whole
from tests.curvature.tools import Notes
from tests.curvature.written import at, flat
from tests.selection import slow_but

# Optax needs the standard promotion.
pytestmark = pytest.mark.usefixtures("standard_promotion", "as_installed")


class Traced(eqx.Module):
    """A layer that records every call in Python, which happens only in a trace."""

    linear: eqx.nn.Linear
    passes: list = eqx.field(static=True)

    def __init__(self, passes=None, dtype=None):
        self.linear = eqx.nn.Linear(3, 2, key=jax.random.key(0), dtype=dtype)
        self.passes = Notes() if passes is None else passes

    def __call__(self, x):
        self.passes.append(None)
        return jnp.tanh(self.linear(x))


def batch(seed, n=6, dtype=None):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal((n, 3)), dtype), jnp.asarray(rng.integers(2, size=n))


OBJECTIVE = cv.Supervised(cv.Categorical())
PENALISED = cv.Supervised(cv.Categorical(), l2=1e-2)
STEP_SIZE = optax.linear_schedule(0.5, 0.1, 4)
OPTIMISERS = {
    "identity, Levenberg–Marquardt": lambda: cv.NaturalGradient(
        OBJECTIVE,
        cv.Identity(),
        damping=cv.LevenbergMarquardt(0.1),
        search=optx.LearningRate(1.0),
    ),
    "sample space, Levenberg–Marquardt, schedule": lambda: cv.NaturalGradient(
        OBJECTIVE,
        solver=cv.SampleSpace(),
        search=cv.ScheduledLearningRate(STEP_SIZE),
        damping=cv.LevenbergMarquardt(0.1),
    ),
    "trust region, CG, warm start, average of samples": lambda: cv.NaturalGradient(
        OBJECTIVE,
        curvature=cv.MovingAverage(cv.SampledFisher(samples=2)),
        search=optx.ClassicalTrustRegion(),
        damping=cv.LevenbergMarquardt(0.1),
        solver=cv.CG(rtol=1e-12, max_steps=50, progress=1e-12),
        momentum=cv.WarmStart(0.95),
    ),
    "next batch, SPRING, penalty, first examples": lambda: cv.NaturalGradient(
        PENALISED,
        curvature=cv.FirstExamples(cv.SampledFisher(1), 4),
        damping=cv.LevenbergMarquardt(next_batch=True),
        momentum=cv.Spring(0.9),
        search=optx.LearningRate(0.5),
    ),
    "KL trust region, plane, schedules": lambda: cv.NaturalGradient(
        PENALISED,
        solver=cv.CG(rtol=1e-2, max_steps=3),
        damping=cv.ScheduledDamping(optax.exponential_decay(1e-1, 2, 0.5)),
        momentum=cv.QuadraticMomentum(),
        search=cv.KLTrustRegion(delta=optax.cosine_decay_schedule(1e-3, 8)),
    ),
    "CG with a preconditioner, Levenberg–Marquardt": lambda: cv.NaturalGradient(
        PENALISED,
        solver=cv.CG(rtol=1e-12, max_steps=50),
        preconditioner=Whole(cv.SampledFisher(samples=2), diagonal=True),
        damping=cv.LevenbergMarquardt(0.1),
    ),
    "averaged adam": lambda: cv.Averaged(cv.FirstOrder(OBJECTIVE, optax.adam(1e-2)), decay=0.9),
    "proximal point": lambda: cv.ProximalPoint(
        OBJECTIVE, strength=20.0, minimiser=optx.NonlinearCG(rtol=1e-3, atol=1e-3), max_steps=8
    ),
}
QUICK, NEXT_BATCH = ["identity, Levenberg–Marquardt"], "next batch, SPRING, penalty, first examples"
TYPED = [*QUICK, NEXT_BATCH, "averaged adam", "proximal point"]


def types(tree):
    """The properties on which a trace depends: structure, shapes, dtypes and weak types."""
    leaves, treedef = jtu.tree_flatten(tree)
    return treedef, [(a.shape, a.dtype, a.weak_type) for a in leaves if hasattr(a, "dtype")]


def reloaded(tree):
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, tree)
    file.seek(0)
    return eqx.tree_deserialise_leaves(file, tree)


STEPS = 4


def scan(opt, model, batches, keys):
    """The model, the state and the infos after many steps in one program."""
    weights, static = eqx.partition(model, eqx.is_array)
    state = opt.init(model, batch=at(batches, 0))

    def body(carry, at_t):
        batch, key = at_t
        model, state, info = opt.step(eqx.combine(carry[0], static), batch, carry[1], key=key)
        assert types((model, state)) == types((eqx.combine(carry[0], static), carry[1]))
        return (eqx.filter(model, eqx.is_array), state), info

    (weights, state), infos = jax.lax.scan(body, (weights, state), (batches, keys))
    return eqx.combine(weights, static), state, infos


def assert_same(found, expected):
    """Checks that all numbers agree to 1e-10.

    The steps and the residual of the solver are left out: because of rounding an iterative solver
    may take one step more.
    """

    def numbers(run):
        model, state, info = run
        info = eqx.tree_at(
            lambda i: (i.solver_steps, i.solver_residual), info, (None, None), is_leaf=_is_none
        )
        return jtu.tree_leaves(eqx.filter((model, state, info), eqx.is_array))

    for a, b in zip(numbers(found), numbers(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def _is_none(leaf):
    return leaf is None


@pytest.mark.parametrize("name", slow_but(QUICK, OPTIMISERS))
def test_one_trace_and_the_same_numbers_in_a_scan_and_in_vmap_over_seeds(x64, name):
    """The searches and solves of one seed continue when those of another seed have ended."""
    opt, passes = OPTIMISERS[name](), Notes()
    needed = batch(0) if "average of" in name or "preconditioner" in name else None
    batches = jtu.tree_map(lambda *leaves: jnp.stack(leaves), *(batch(t) for t in range(STEPS)))

    def start(seed):
        # The sizes of the weights differ, so that the seeds need different numbers of iterations.
        grown = lambda a: a * 4.0 ** (seed - 1) if eqx.is_inexact_array(a) else a  # noqa: E731
        return jtu.tree_map(grown, Traced(passes))

    def keys(seed):
        return jax.random.split(jax.random.key(seed), STEPS)

    expected, traced = [], []
    for seed in range(3):
        model, infos = start(seed), []
        state = opt.init(model, batch=needed)
        for t in range(STEPS):
            before = len(passes)
            model, state, info = opt.step(model, at(batches, t), state, key=keys(seed)[t])
            traced.append(len(passes) - before)
            if t == 1:
                model, state = reloaded((model, state))
            infos.append(info)
        infos = jtu.tree_map(lambda *leaves: jnp.stack(leaves), *infos)
        assert infos.accepted.any()
        expected.append((model, state, infos))
    assert traced[0] > 0 == max(traced[1:]), "traced again, by a later step or after a reload"
    before = len(passes)
    for _ in range(2):
        eqx.filter_eval_shape(opt.step, model, batch(7, n=9), state, key=keys(0)[0])
    assert len(passes) == before + traced[0], "another batch shape is another trace, and only one"
    together = eqx.filter_jit(
        eqx.filter_vmap(lambda seed: scan(opt, start(seed), batches, keys(seed)))
    )(jnp.arange(3))
    for seed in range(3):
        assert_same(at(together, seed), expected[seed])


PAIRS = [
    ({"damping": 0.1}, {"damping": cv.ConstantDamping(3.0)}),
    ({"damping": cv.LevenbergMarquardt(0.1, 1e-4)}, {"damping": cv.LevenbergMarquardt(5.0, 1e-3)}),
    ({"search": optx.LearningRate(0.1)}, {"search": optx.LearningRate(0.7)}),
]


@pytest.mark.parametrize(("one", "other"), slow_but(PAIRS[1:2], PAIRS))
def test_another_number_is_not_another_trace(one, other):
    model, once = Traced(), None
    for arguments in (one, other):
        opt = cv.NaturalGradient(OBJECTIVE, cv.Identity(), **arguments)
        eqx.filter_eval_shape(opt.step, model, batch(0), opt.init(model))
        once = len(model.passes) if once is None else once
    assert len(model.passes) == once


class Scaled(eqx.Module):
    """A model with the weakly typed weight `jnp.asarray(1.0)`, which users write often."""

    scale: jax.Array
    linear: eqx.nn.Linear

    def __init__(self):
        self.scale = jnp.asarray(1.0)
        self.linear = eqx.nn.Linear(3, 2, key=jax.random.key(0))

    def __call__(self, x):
        return self.scale * self.linear(x)


@pytest.mark.parametrize("name", slow_but([*QUICK, NEXT_BATCH], TYPED))
def test_weights_keep_their_types(name):
    """With x64 enabled float32 stays float32; a weakly typed weight stays weakly typed."""
    for make, wide in ((lambda: Traced(dtype=jnp.float32), True), (Scaled, False)):
        with jax.enable_x64(wide):
            model, data, opt = make(), batch(0, dtype=jnp.float32), OPTIMISERS[name]()
            state = opt.init(model, batch=data)
            new_model, new_state, info = eqx.filter_eval_shape(
                opt.step, model, data, state, key=jax.random.key(0)
            )
            assert types((new_model, new_state)) == types((model, state))
        if wide:
            numbers = jtu.tree_leaves((state, info))
            floats = [a for a in numbers if jnp.issubdtype(a.dtype, jnp.floating)]
            assert all(a.dtype == jnp.float32 for a in floats)
            assert all(a.shape == () for a in jtu.tree_leaves(info))
            assert not any(weak for _, _, weak in types(new_state)[1])


def test_a_rejected_seed_does_not_stop_the_others(x64):
    """The batch of one seed has a NaN; `info` reports a rejection for this seed alone."""
    opt, model = cv.NaturalGradient(OBJECTIVE, cv.Identity(), damping=0.1), Traced()
    x, y = batch(0)
    xs = jnp.stack([x, x.at[0, 0].set(jnp.nan), 2 * x])

    @eqx.filter_jit
    def together(xs):
        return eqx.filter_vmap(lambda x: opt.step(model, (x, y), opt.init(model)))(xs)

    models, _, infos = together(xs)
    assert infos.accepted.tolist() == [True, False, True]
    np.testing.assert_array_equal(flat(at(models, 1)), flat(model))
    alone, _, _ = together(jnp.stack([2 * x] * 3))
    np.testing.assert_allclose(flat(at(models, 2)), flat(at(alone, 0)), rtol=1e-12)
