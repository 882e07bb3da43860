"""A step is traced once per batch shape, and gives the same numbers under every transformation."""

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
from tests.selection import slow_but


class Traced(eqx.Module):
    """An MLP that notes every time Python runs through it: at a trace, and never otherwise."""

    mlp: eqx.nn.MLP
    passes: list = eqx.field(static=True)

    def __init__(self, key=0, passes=None):
        self.mlp = eqx.nn.MLP(3, 2, 4, 1, activation=jnp.tanh, key=jax.random.key(key))
        self.passes = Passes() if passes is None else passes

    def __call__(self, x):
        self.passes.append(None)
        return self.mlp(x)


class Passes(list):
    """Hashed and compared by identity, as a static field has to be."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


def batch(seed, n=6):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal((n, 3))), jnp.asarray(rng.integers(2, size=n))


OBJECTIVE = cv.Supervised(cv.Categorical())
OPTIMISERS = {
    "learning rate, Levenberg–Marquardt": lambda: cv.NaturalGradient(
        OBJECTIVE, search=optx.LearningRate(0.5), damping=cv.LevenbergMarquardt(0.1)
    ),
    "armijo": lambda: cv.NaturalGradient(
        OBJECTIVE, search=optx.BacktrackingArmijo(), damping=0.1, curvature=cv.EmpiricalFisher()
    ),
    "trust region, CG, warm start, samples": lambda: cv.NaturalGradient(
        OBJECTIVE,
        curvature=cv.SampledFisher(samples=2),
        search=optx.ClassicalTrustRegion(),
        damping=cv.LevenbergMarquardt(0.1),
        solver=cv.CG(rtol=1e-12, max_steps=50, progress=1e-12),
        warm_start=0.95,
    ),
    "adam": lambda: cv.FirstOrder(OBJECTIVE, optax.adam(1e-2)),
    "averaged adam": lambda: cv.Averaged(cv.FirstOrder(OBJECTIVE, optax.adam(1e-2)), decay=0.9),
    "proximal point": lambda: cv.ProximalPoint(
        OBJECTIVE, strength=20.0, minimiser=optx.NonlinearCG(rtol=1e-3, atol=1e-3), max_steps=8
    ),
}
QUICK = ("trust region, CG, warm start, samples", "averaged adam")
every_optimiser = pytest.mark.parametrize("name", slow_but(QUICK, OPTIMISERS))
TYPED = ("trust region, CG, warm start, samples", "adam", "averaged adam", "proximal point")
# The standard promotion is for optax.
pytestmark = pytest.mark.usefixtures("standard_promotion")


def types(tree):
    """What a trace depends on: structure, shapes, dtypes and whether they are weak."""
    leaves, treedef = jtu.tree_flatten(tree)
    return treedef, [(jnp.shape(a), a.dtype, a.weak_type) for a in leaves if eqx.is_array(a)]


def reloaded(tree):
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, tree)
    file.seek(0)
    return eqx.tree_deserialise_leaves(file, tree)


@every_optimiser
def test_one_trace_per_batch_shape(name):
    opt, model = OPTIMISERS[name](), Traced()
    state, passes = opt.init(model), model.passes
    model, state, _ = opt.step(model, batch(0), state, key=jax.random.key(0))
    once = len(passes)
    assert once > 0
    for seed in range(1, 4):
        before = types((model, state))
        model, state, _ = opt.step(model, batch(seed), state, key=jax.random.key(seed))
        assert types((model, state)) == before
    assert len(passes) == once, "traced again from one step to the next"
    model, state = reloaded((model, state))
    opt.step(model, batch(4), state, key=jax.random.key(4))
    assert len(passes) == once, "traced again after a reload"
    if isinstance(opt, cv.NaturalGradient):
        other = eqx.tree_at(lambda s: s.damping, state, 17 * state.damping)
        opt.step(model, batch(5), other, key=jax.random.key(5))
        OPTIMISERS[name]().step(model, batch(6), state, key=jax.random.key(6))
        assert len(passes) == once, "traced again at another damping, or by an equal optimiser"
    opt.step(model, batch(7, n=9), state, key=jax.random.key(7))
    assert len(passes) == 2 * once, "another batch shape is another trace, and only one"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"damping": 0.1}, {"damping": 3.0}),
        ({"damping": 0.1}, {"damping": cv.ConstantDamping(0.3)}),
        (
            {"damping": cv.LevenbergMarquardt(0.1, 1e-4)},
            {"damping": cv.LevenbergMarquardt(5.0, 1e-3)},
        ),
        ({"search": optx.LearningRate(0.1)}, {"search": optx.LearningRate(0.7)}),
    ],
)
def test_another_number_is_not_another_trace(as_installed, one, other):
    model = Traced()
    for arguments in (one, other):
        opt = cv.NaturalGradient(OBJECTIVE, **arguments)
        opt.step(model, batch(0), opt.init(model))
        once = len(model.passes) if arguments is one else once
    assert len(model.passes) == once


@pytest.mark.parametrize("name", TYPED)
def test_float32_weights_stay_float32_where_x64_is_on(x64, name):
    model, (x, y) = Traced(), batch(0)
    model, x = jtu.tree_map(lambda a: a.astype(jnp.float32) if eqx.is_array(a) else a, (model, x))
    opt = OPTIMISERS[name]()
    state = opt.init(model)
    new_model, new_state, info = opt.step(model, (x, y), state, key=jax.random.key(0))
    assert types((new_model, new_state)) == types((model, state))
    floats = [a for a in jtu.tree_leaves(info) if jnp.issubdtype(a.dtype, jnp.floating)]
    assert all(a.dtype == jnp.float32 for a in floats)
    assert all(a.shape == () for a in jtu.tree_leaves(info))
    assert not any(weak for _, _, weak in types(new_state)[1])
    if isinstance(opt, cv.NaturalGradient):
        assert state.damping.dtype == jnp.float32


class Scaled(eqx.Module):
    """`jnp.asarray(1.0)` is weakly typed, and a natural thing to write in a model."""

    scale: jax.Array
    linear: eqx.nn.Linear

    def __init__(self):
        self.scale = jnp.asarray(1.0)
        self.linear = eqx.nn.Linear(3, 2, key=jax.random.key(0))

    def __call__(self, x):
        return self.scale * self.linear(x)


@pytest.mark.parametrize("name", TYPED)
def test_a_weakly_typed_weight_stays_as_it_is(name):
    model, opt = Scaled(), OPTIMISERS[name]()
    assert model.scale.weak_type
    state = opt.init(model)
    new_model, new_state, _ = opt.step(model, batch(0), state, key=jax.random.key(0))
    assert types((new_model, new_state)) == types((model, state))


# --- the same numbers ------------------------------------------------------------------------

STEPS = 4


def loop(opt, model, batches, keys):
    """The plain Python loop over the leading axis of the batches."""
    state, infos = opt.init(model), []
    for t in range(STEPS):
        at_t = jtu.tree_map(lambda a, t=t: a[t], batches)
        model, state, info = opt.step(model, at_t, state, key=keys[t])
        infos.append(info)
    return model, state, jtu.tree_map(lambda *leaves: jnp.stack(leaves), *infos)


def scan(opt, model, batches, keys):
    weights, static = eqx.partition(model, eqx.is_array)

    def body(carry, at_t):
        weights, state = carry
        batch, key = at_t
        model, state, info = opt.step(eqx.combine(weights, static), batch, state, key=key)
        return (eqx.filter(model, eqx.is_array), state), info

    (weights, state), infos = jax.lax.scan(body, (weights, opt.init(model)), (batches, keys))
    return eqx.combine(weights, static), state, infos


def assert_same(found, expected):
    """Numbers to 1e-10; but for the solver's, which may end one step later by a rounding."""

    def numbers(run):
        model, state, info = run
        info = eqx.tree_at(lambda i: (i.solver_steps, i.solver_residual), info, (None, None))
        return jtu.tree_leaves(eqx.filter((model, state, info), eqx.is_array))

    for a, b in zip(numbers(found), numbers(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def at(tree, i):
    return jtu.tree_map(lambda a: a[i] if eqx.is_array(a) else a, tree)


@every_optimiser
def test_jit_scan_and_vmap_over_seeds_give_the_numbers_of_the_loop(x64, name):
    """In particular the searches and solves of one seed go on while another's has ended."""
    opt, passes = OPTIMISERS[name](), Passes()
    batches = jtu.tree_map(lambda *leaves: jnp.stack(leaves), *(batch(t) for t in range(STEPS)))

    def arguments(seed):
        # Weights of very different size, so that the seeds search and solve for different times.
        model = jtu.tree_map(
            lambda a: a * 4.0 ** (seed - 1) if eqx.is_inexact_array(a) else a,
            Traced(passes=passes),
        )
        return opt, model, batches, jax.random.split(jax.random.key(seed), STEPS)

    expected = [loop(*arguments(jnp.asarray(seed))) for seed in range(3)]
    assert all(info.accepted.any() for _, _, info in expected)
    assert_same(eqx.filter_jit(scan)(*arguments(jnp.asarray(1))), expected[1])
    together = eqx.filter_jit(eqx.filter_vmap(lambda seed: scan(*arguments(seed))))(jnp.arange(3))
    for seed in range(3):
        assert_same(at(together, seed), expected[seed])


def test_a_rejected_seed_does_not_stop_the_others(x64):
    """One seed's batch is NaN; and `info` says so for that seed alone."""
    opt = OPTIMISERS["trust region, CG, warm start, samples"]()
    model = Traced()
    x, y = batch(0)
    xs = jnp.stack([x, x.at[0, 0].set(jnp.nan), 2 * x])

    def one(x):
        return opt.step(model, (x, y), opt.init(model), key=jax.random.key(0))

    together = eqx.filter_vmap(one)(xs)
    assert together[2].accepted.tolist() == [True, False, True]
    assert_same(at(together, 2), one(2 * x))
    for a, b in zip(jtu.tree_leaves(at(together[0], 1)), jtu.tree_leaves(model), strict=True):
        assert a is b or np.array_equal(a, b)
