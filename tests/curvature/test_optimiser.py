"""One optimiser step, and every number of its `Info`, against the dense reference."""

import itertools

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
import numpy as np
import optax
import optimistix as optx
import pytest

import curvature as cv
from tests.curvature import cases, dense
from tests.curvature.tools import Notes
from tests.curvature.written import MODELS, Written, check_step, drawn, flat, one_layer
from tests.selection import slow_but

pytestmark = pytest.mark.usefixtures("as_installed")

DAMPING = 0.03
CATEGORICAL, GAUSSIAN = cv.Supervised(cv.Categorical()), cv.Supervised(cv.Gaussian())


CASES = [
    ("one layer", "identity", "categorical"),
    ("one layer", "divergence", "categorical"),
    ("one layer", "empirical_fisher", "bernoulli"),
    ("one layer", "gauss_newton", "gaussian"),
    ("tanh", "true_fisher", "categorical"),
    ("several_terms", "exact_fisher", "categorical"),
    ("frozen", "exact_fisher", "categorical"),
]
QUICK = CASES[:1]
EXACT = "SampleSpace", "Cholesky"


@pytest.mark.parametrize(("kind", "curvature", "likelihood"), slow_but(QUICK, CASES))
def test_one_step_is_the_step_written_densely(x64, kind, curvature, likelihood):
    """The step is w ← w − s(C + λI)⁻¹g, and all numbers of its `Info` are correct."""
    case, s, key = MODELS[kind](likelihood), 0.7, jax.random.key(3)
    is_drawn = curvature == "true_fisher"
    written = Written(case, "identity" if is_drawn else curvature)
    w, (_, g, C) = written.w, written(written.w)
    C = drawn(case, [key])(w, 0) if is_drawn else C
    d = np.linalg.solve(C + DAMPING * np.eye(len(w)), g)
    opt = cv.NaturalGradient(
        case.objective,
        curvature=cases.curvature(curvature, likelihood),
        damping=cv.LevenbergMarquardt(DAMPING),
        search=optx.LearningRate(s),
    )
    state = opt.init(case.model, case.trainable)
    model, state, info = opt.step(case.model, case.batch, state, key=key)
    check_step(info, w, written.flat(model), written, C, "", w - s * d)
    np.testing.assert_allclose(info.damping, DAMPING, rtol=1e-12)
    assert info.solver_residual < 1e-12
    # These are products of the refinement. A metric without closed-form coefficients of the
    # gradient needs some.
    assert info.solver_steps <= (3 if "divergence" in curvature else 1)
    assert info.solver in (("Elementwise",) if curvature == "identity" else EXACT)
    factor = 3 / 2 if info.reduction_ratio < 1 / 4 else 1.0
    factor = 2 / 3 if info.reduction_ratio > 3 / 4 else factor
    np.testing.assert_allclose(state.damping.damping, factor * DAMPING, rtol=1e-12)
    kept, frozen = (eqx.filter(m, case.trainable, inverse=True) for m in (model, case.model))
    assert eqx.tree_equal(kept, frozen)


def test_truncated_and_warm_started_solves_report_true_numbers(x64):
    """½δᵀCδ, the ratio and the residual are correct for any d, not only for the exact solution.

    They are computed from the products of the solve. The first solve starts from zero, the second
    from a multiple of the first direction.
    """
    case, solver = MODELS["one layer"]("categorical"), cv.CG(rtol=1e-12, max_steps=3)
    damping, momentum = cv.LevenbergMarquardt(DAMPING), cv.WarmStart(0.95)
    whole = optx.LearningRate(1.0)
    opt = cv.NaturalGradient(
        case.objective, solver=solver, damping=damping, momentum=momentum, search=whole
    )
    written, model, state = Written(case, "gauss_newton"), case.model, opt.init(case.model)

    @jax.jit
    def truncated(matrix, g, y0):
        operator = lx.MatrixLinearOperator(matrix, lx.positive_semidefinite_tag)
        return lx.linear_solve(operator, g, solver, options={"y0": y0}, throw=False).value

    start = np.zeros_like(written.w)
    for _ in range(2):
        w, used = written.flat(model), float(state.damping.damping)
        model, state, info = opt.step(model, case.batch, state)
        new, (_, g, C) = written.flat(model), written(w)
        matrix = C + used * np.eye(len(w))
        check_step(info, w, new, written, C, "", w - np.asarray(truncated(matrix, g, start)))
        residual = np.linalg.norm(g - matrix @ (w - new)) / np.linalg.norm(g)
        np.testing.assert_allclose(info.solver_residual, residual, rtol=1e-6)
        assert info.solver_steps == 3
        assert info.solver_residual > 1e-3
        start = 0.95 * (w - new)


class Spy(optx.AbstractSearch):
    """A search that takes half of d and records everything that it gets."""

    seen: list = eqx.field(static=True)

    def init(self, y, f_info_struct):
        return None

    def step(self, first_step, y, y_eval, f_info, f_eval_info, state):
        jax.debug.callback(
            lambda *values: self.seen.append(values),
            first_step,
            f_info.f,
            jfu.ravel_pytree(f_info.grad)[0],
            f_info.hessian.as_matrix(),
            jfu.ravel_pytree(y)[0],
            jfu.ravel_pytree(y_eval)[0],
            f_eval_info.f,
        )
        return jnp.asarray(0.5), jnp.asarray(True), optx.RESULTS.successful, state


def test_a_search_gets_the_undamped_curvature(x64):
    """With the undamped C a heavily damped step has ρ ≈ 1; with the damped C, ρ would be near 2."""
    case, damping, seen = MODELS["one layer"]("gaussian"), 10.0, Notes()
    written = Written(case, "gauss_newton")
    w, (loss, g, C) = written.w, written(written.w)
    d = np.linalg.solve(C + damping * np.eye(len(w)), g)
    opt = cv.NaturalGradient(
        case.objective, solver=lx.Cholesky(), damping=damping, search=Spy(seen)
    )
    opt.step(case.model, case.batch, opt.init(case.model))
    jax.effects_barrier()
    assert [bool(first) for first, *_ in seen] == [True, False]
    candidate = w - 0.5 * d
    for first, *numbers in seen:
        # In its first call the search gets the candidate w − d, with the loss at w.
        at, at_loss = (w - d, loss) if first else (candidate, written.loss(candidate))
        for number, value in zip(numbers, (loss, g, C, w, at, at_loss), strict=True):
            np.testing.assert_allclose(number, value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("damping", slow_but([1e3], [1e-3, 1e3]))
def test_the_metric_of_a_step_is_accurate_in_float32(damping):
    """dᵀCd = dᵀ(C+λI)d − λ‖d‖² is a difference; its error is a few units of roundoff of λ‖d‖²."""
    model = eqx.nn.MLP(20, 5, 30, 1, key=jax.random.key(0))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((32, 20)), jnp.float32)
    y = jnp.asarray(rng.integers(5, size=32))
    opt = cv.NaturalGradient(CATEGORICAL, damping=damping)
    new, _, info = opt.step(model, (x, y), opt.init(model))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    delta = jtu.tree_map(lambda a, b: a - b, eqx.filter(new, eqx.is_inexact_array), params)

    @jax.jit
    def outputs(params, delta):
        return jax.jvp(lambda p: jax.vmap(eqx.combine(p, static))(x), (params,), (delta,))

    z, dz = (np.asarray(a, np.float64) for a in outputs(params, delta))
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    metric = np.mean((p * dz**2).sum(axis=1) - (p * dz).sum(axis=1) ** 2) / 2
    allowed = 4 * 2.0**-23 * damping * float(info.step_norm) ** 2
    # If δ is small, the difference of the weights has only a few correct digits.
    assert abs(float(info.metric_step) - metric) <= allowed + 0.01 * metric


# --- derivatives -----------------------------------------------------------------------------


SETTINGS = {"damping": 0.3, "step_size": 0.6, "l2": 0.2}


def after_by_hand(settings, weight, targets, x):
    """The loss after a step, with the step written in plain JAX."""

    def outputs(w):
        return jnp.tanh(x @ w.T)

    def loss(w):
        apart = jnp.sum((outputs(w) - targets) ** 2) / (2 * len(x))
        return apart + settings["l2"] * jnp.sum(w**2) / 2

    J = jax.jacrev(outputs)(weight).reshape(-1, weight.size)
    B = J.T @ J / len(x) + (settings["l2"] + settings["damping"]) * jnp.eye(weight.size)
    d = jnp.linalg.solve(B, jax.grad(loss)(weight).ravel()).reshape(weight.shape)
    return loss(weight - settings["step_size"] * d)


def after_a_step(solver):
    def loss(settings, weight, targets, x):
        objective = cv.Supervised(cv.Gaussian(), l2=settings["l2"])
        opt = cv.NaturalGradient(
            objective,
            solver=solver,
            damping=settings["damping"],
            search=optx.LearningRate(settings["step_size"]),
        )
        model = eqx.tree_at(lambda m: m.linear.weight, one_layer(6, 2), weight)
        return objective.loss(opt.step(model, (x, targets), opt.init(model))[0], (x, targets))

    return loss


DIFFERENTIABLE = {
    "Auto": cv.Auto(),
    "CG": cv.CG(rtol=1e-12, max_steps=300),
    "SampleSpace": cv.SampleSpace(),
    "Cholesky": lx.Cholesky(),
}
SIZES = (4, 6), (4, 2), (2, 6)  # more weights than rows, so that `Auto` uses an exact solver
MODES = [*itertools.product(["Auto", "CG", "Cholesky"], ["grad", "jvp"])]


def derivative_of(loss, mode):
    """All partial derivatives (`grad`), or the derivative along one direction (`jvp`)."""

    def derivative(*arguments):
        *free, x = arguments
        if mode == "grad":
            return jax.grad(loss, argnums=(0, 1, 2))(*arguments)
        along = jax.tree.map(lambda a: jnp.cos(jnp.arange(jnp.size(a)).reshape(a.shape)), free)
        return jax.jvp(lambda *free: loss(*free, x), free, along)

    return jax.jit(derivative)


@pytest.mark.parametrize(("solver", "mode"), slow_but([("CG", "grad")], MODES))
def test_derivatives_through_a_step_are_those_of_the_step_by_hand(x64, solver, mode):
    """The derivatives are in λ, the step size, `l2`, the weights and the targets."""
    rng = np.random.default_rng(0)
    x, targets, weight = (jnp.asarray(rng.normal(size=size)) for size in SIZES)
    arguments = jax.tree.map(jnp.asarray, SETTINGS), weight, targets, x
    found = derivative_of(after_a_step(DIFFERENTIABLE[solver]), mode)(*arguments)
    expected = derivative_of(after_by_hand, mode)(*arguments)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.abs(b).min() > 1e-4
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("mode", slow_but(["jvp"], ["grad", "jvp"]))
def test_the_derivative_of_a_truncated_solve_is_refused(x64, mode):
    rng = np.random.default_rng(0)
    x, targets, weight = (jnp.asarray(rng.normal(size=size)) for size in SIZES)
    loss = after_a_step(cv.CG(rtol=1e-12, max_steps=1))
    derivative = derivative_of(loss, mode)
    with pytest.raises(Exception, match=r"derivative of a step needs|maximum number of.*steps"):
        jax.block_until_ready(derivative(jax.tree.map(jnp.asarray, SETTINGS), weight, targets, x))


# --- targets, masks, and models of many kinds ------------------------------------------------


@pytest.mark.parametrize("first_order", slow_but([True], [False, True]))
def test_targets_outside_their_domain_end_as_rejected_steps_that_name_them(first_order):
    """The targets are wrong in one of two terms."""
    pairs = {"bit": cv.Bernoulli(), "label": cv.Categorical()}.items()
    objective = cv.Objective({n: cv.Term(lambda model, x: model(x), of) for n, of in pairs})
    model = eqx.nn.Linear(2, 2, key=jax.random.key(0))
    opt = cv.FirstOrder(objective, optax.sgd(0.1))
    if not first_order:
        opt = cv.NaturalGradient(objective, cv.Identity(), damping=0.1)
    state, bits, labels = opt.init(model), [[0.0, 1.0], [0.25, 1.0]], [1, 0]

    def step(bits, labels):
        targets = {"bit": np.asarray(bits, np.float32), "label": np.asarray(labels)}
        return opt.step(model, {name: (jnp.eye(2), y) for name, y in targets.items()}, state)

    assert step(bits, labels)[2].accepted
    bad = [(bits, [2, 0]), (bits, [-1, 0])]
    bad += [([[-1.0, 1.0], [1.0, -1.0]], labels), ([[np.nan, 1.0], [0.25, 1.0]], labels)]
    for targets in bad:
        new, after, info = step(*targets)
        assert not info.accepted, targets
        assert "targets" in cv.RESULTS[info.result], targets
        assert eqx.tree_equal(new, model), targets
        assert all(np.isfinite(leaf).all() for leaf in jtu.tree_leaves(after)), targets


class Hidden(dense.Distribution):
    """A distribution over some positions only; its target is a pair (target, mask)."""

    outcomes = kl = squared_hellinger = None

    def __init__(self, of):
        self.of = of

    def nll(self, z, y):
        target, mask = y
        return jnp.sum(jnp.where(mask, jax.vmap(self.of.nll)(z, target), 0))


def test_a_masked_step_is_that_of_the_positions_that_count(x64):
    """The masked targets have no effect: labels out of range in one term, NaN in the other."""
    rng = np.random.default_rng(0)
    x, labels, reals = (
        rng.normal(size=(4, 3)),
        rng.integers(2, size=(4, 3)),
        rng.normal(size=(4, 6)),
    )
    seen, kept = (rng.random(shape) < 0.6 for shape in ((4, 3), (4, 6)))
    objective = cv.Objective(
        {
            "a": cv.Term(lambda m, x: m(x).reshape(3, 2), cv.Masked(cv.Categorical())),
            "b": cv.Term(lambda m, x: m(x), cv.Masked(cv.Gaussian())),
        }
    )
    hidden = np.where(seen, labels, -100), np.where(kept, reals, np.nan)
    batch = {"a": (x, (hidden[0], seen)), "b": (x, (hidden[1], kept))}
    terms = [
        dense.Term(
            lambda m, x, key: m(x).reshape(3, 2), Hidden(dense.Categorical()), x, (labels, seen)
        ),
        dense.Term(lambda m, x, key: m(x), Hidden(dense.Gaussian(1.0)), x, (reals, kept)),
    ]
    case = cases.Case(one_layer(3, 6), objective, jax.tree.map(jnp.asarray, batch), terms)
    written = Written(case, "gauss_newton")
    _, g, C = written(written.w)
    damping = cv.LevenbergMarquardt(DAMPING)
    opt = cv.NaturalGradient(objective, solver=lx.Cholesky(), damping=damping)
    new, _, info = opt.step(case.model, case.batch, opt.init(case.model))
    d = np.linalg.solve(C + DAMPING * np.eye(len(g)), g)
    check_step(info, written.w, flat(new), written, C, "", written.w - d)


@jax.custom_vjp
def tanh(v):
    return jnp.tanh(v)


tanh.defvjp(lambda v: (jnp.tanh(v), jnp.tanh(v)), lambda t, g: (g * (1 - t**2),))


class Odd(eqx.Module):
    """A model with a weight without elements and an activation that has only a backward rule."""

    empty: jax.Array
    layer: eqx.Module
    activation: object = eqx.field(static=True)

    def __call__(self, x):
        return self.activation(self.layer.linear(x)) + jnp.sum(self.empty)


@pytest.mark.parametrize("solver", slow_but(["CG"], DIFFERENTIABLE))
def test_an_empty_weight_and_a_custom_vjp_step_as_if_written_plainly(x64, solver):
    plain = cases.supervised(one_layer(), "categorical")
    model = Odd(jnp.zeros((0, 3)), plain.model, tanh)
    opt = cv.NaturalGradient(plain.objective, solver=DIFFERENTIABLE[solver], damping=DAMPING)
    new, _, info = opt.step(model, plain.batch, opt.init(model))
    written = Written(plain, "gauss_newton")
    _, g, C = written(written.w)
    d = np.linalg.solve(C + DAMPING * np.eye(len(g)), g)
    np.testing.assert_allclose(flat(new), written.w - d, rtol=1e-8)
    assert info.accepted


def test_a_step_with_donated_buffers_creates_no_nan():
    """With `jax_debug_nans` a NaN in the results of a program is an error.

    The model and the state are donated.
    """
    case = cases.supervised(one_layer(), "categorical")
    damping = cv.LevenbergMarquardt(1.0, next_batch=True)
    opt = cv.NaturalGradient(
        case.objective, solver=lx.Cholesky(), damping=damping, momentum=cv.Spring()
    )
    donated = eqx.filter_jit(lambda b, m, s: opt.step(m, b, s), donate="all-except-first")
    with jax.debug_nans(True):
        model, state, info = donated(case.batch, case.model, opt.init(case.model))
        _, _, info = donated(case.batch, model, state)
    assert info.accepted
    assert np.isfinite(info.loss)


# --- dtypes ----------------------------------------------------------------------------------


class Mixed(eqx.Module):
    """A linear model; its outputs have the wider of the dtypes of the weights and the data."""

    w: jax.Array

    def __call__(self, x):
        dtype = max(self.w.dtype, x.dtype, key=lambda dtype: jnp.finfo(dtype).bits)
        return self.w.astype(dtype) @ x.astype(dtype)


ANY_SOLVER = {
    "Auto": cv.Auto(),
    "SampleSpace": cv.SampleSpace(),
    "CG": cv.CG(rtol=1e-4),
    "Cholesky": lx.Cholesky(),
}
MIXED = {
    ("float32", "float64"): ANY_SOLVER,
    ("bfloat16", "float32"): ("Auto", "Cholesky"),
    ("bfloat16", "bfloat16"): ("SampleSpace", "CG"),
    ("float16", "float16"): ("Auto", "Cholesky"),
}
ALL_MIXED = [(*dtypes, solver) for dtypes, solvers in MIXED.items() for solver in solvers]


@pytest.mark.parametrize(
    ("weights", "data", "solver"),
    slow_but([("bfloat16", "bfloat16", "CG")], ALL_MIXED),
)
def test_weights_and_data_may_have_different_dtypes(x64, standard_promotion, weights, data, solver):
    """The error of a step, compared with float64, is a few units of roundoff of the coarser dtype.

    The searches of optimistix need the standard promotion of dtypes.
    """
    rng, damping = np.random.default_rng(0), 0.1
    x, y = (jnp.asarray(rng.normal(size=(8, n)), data) for n in (3, 2))
    model = Mixed(jnp.asarray(rng.normal(size=(2, 3)), weights))
    opt = cv.NaturalGradient(GAUSSIAN, solver=ANY_SOLVER[solver], damping=damping)
    new, _, info = opt.step(model, (x, y), opt.init(model))
    assert info.accepted
    assert new.w.dtype == weights
    X, Y, W, found = (np.asarray(a, np.float64) for a in (x, y, model.w, new.w))
    g = (X @ W.T - Y).T @ X / 8
    d = np.linalg.solve(X.T @ X / 8 + damping * np.eye(3), g.T).T
    eps = float(max(jnp.finfo(weights).eps, jnp.finfo(data).eps))
    tolerance = max(10 * eps, 1e-3 if solver == "CG" else 1e-5)
    assert np.abs(W - d - found).max() <= tolerance
    loss = lambda W: np.mean(np.sum((X @ W.T - Y) ** 2, axis=1)) / 2  # noqa: E731
    np.testing.assert_allclose(info.loss, loss(W), rtol=20 * eps)
    assert loss(found) < 0.5 * loss(W)


@pytest.mark.parametrize("solver", slow_but(["CG"], ["CG", "Auto"]))
def test_leaves_of_different_dtypes_keep_them(standard_promotion, solver):
    model = eqx.nn.Linear(3, 3, key=jax.random.key(0))
    model = eqx.tree_at(lambda m: m.weight, model, model.weight.astype(jnp.bfloat16))
    opt = cv.NaturalGradient(CATEGORICAL, solver=ANY_SOLVER[solver], damping=0.1)
    new, _, info = opt.step(model, (jnp.ones((5, 3)), jnp.zeros(5, jnp.int32)), opt.init(model))
    assert info.accepted
    assert (new.weight.dtype, new.bias.dtype) == (jnp.bfloat16, jnp.float32)


def test_complex_weights_or_outputs_are_refused():
    term = cv.Term(lambda model, x: model(x).astype(jnp.complex64), cv.Gaussian())
    objective, batch = cv.Objective({"a": term}), {"a": (jnp.ones((2, 3)), jnp.ones((2, 2)))}
    for opt in (cv.FirstOrder(objective, optax.sgd(0.1)), cv.NaturalGradient(objective)):
        with pytest.raises(ValueError, match=r"weights must be real, got .*complex64"):
            opt.init(Mixed(jnp.ones((2, 3), jnp.complex64)))
        model = Mixed(jnp.ones((2, 3)))
        with pytest.raises(ValueError, match=r"outputs of a term must be real, got .*complex64"):
            opt.step(model, batch, opt.init(model))


# --- dropout and keys ------------------------------------------------------------------------


@pytest.mark.parametrize("armijo", slow_but([False], [False, True]))
def test_dropout_is_the_same_in_gradient_curvature_and_search(x64, armijo):
    """Otherwise the reduction ratio of this loss, which is exactly quadratic, would not be 1."""
    case = cases.dropped("gaussian")
    model, batch = case.model, case.batch
    opt = cv.NaturalGradient(
        case.objective,
        solver=lx.Cholesky(),
        damping=cv.LevenbergMarquardt(0.1),
        search=optx.BacktrackingArmijo() if armijo else optx.LearningRate(0.1),
    )
    state = opt.init(model)
    first, _, info = opt.step(model, batch, state, key=jax.random.key(1))
    np.testing.assert_allclose(info.reduction_ratio, 1.0, rtol=1e-9)
    again, _, _ = opt.step(model, batch, state, key=jax.random.key(1))
    other, _, _ = opt.step(model, batch, state, key=jax.random.key(2))
    assert eqx.tree_equal(first, again)
    assert not eqx.tree_equal(first, other)


# --- first order -----------------------------------------------------------------------------

TRANSFORMATIONS = {
    "sgd": lambda: optax.sgd(0.1),
    "momentum": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adamw, schedule": lambda: optax.adamw(optax.cosine_decay_schedule(1e-2, 10), weight_decay=0.1),
    "polyak": lambda: optax.polyak_sgd(),
    "plateau": lambda: optax.chain(optax.adam(1e-2), optax.contrib.reduce_on_plateau(patience=1)),
    "lbfgs": lambda: optax.lbfgs(),
}


@pytest.mark.parametrize("name", slow_but(["polyak"], TRANSFORMATIONS))
def test_first_order_is_the_hand_written_optax_loop(standard_promotion, name):
    """This includes transformations that use the loss, the gradient or the loss function."""
    model, rng = one_layer(), np.random.default_rng(0)
    batches = [
        (
            jnp.asarray(rng.standard_normal((5, 3)), jnp.float32),
            jnp.asarray(rng.integers(3, size=5)),
        )
        for _ in range(4)
    ]
    opt = cv.FirstOrder(CATEGORICAL, TRANSFORMATIONS[name]())
    state = opt.init(model)
    transformation = optax.with_extra_args_support(TRANSFORMATIONS[name]())
    mine, optax_state = model, transformation.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def by_hand(mine, optax_state, batch):
        x, y = batch

        def loss_at(model):
            z = jax.vmap(model)(x)
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(z, y))

        loss, grad = jax.value_and_grad(loss_at)(mine)
        updates, optax_state = transformation.update(
            grad, optax_state, mine, value=loss, grad=grad, value_fn=loss_at
        )
        numbers = loss, optax.tree.norm(grad), optax.tree.norm(updates)
        return optax.apply_updates(mine, updates), optax_state, numbers

    for batch in batches:
        mine, optax_state, (loss, grad_norm, step_norm) = by_hand(mine, optax_state, batch)
        model, state, info = opt.step(model, batch, state)
        np.testing.assert_allclose(info.loss, loss, rtol=1e-6)
        np.testing.assert_allclose(info.grad_norm, grad_norm, rtol=1e-5)
        np.testing.assert_allclose(info.step_norm, step_norm, rtol=1e-5)
        assert info.accepted
        for field in ("damping", "solver_residual", "reduction_ratio", "metric_step"):
            assert getattr(info, field) is None
        np.testing.assert_allclose(flat(model), flat(mine), rtol=1e-5, atol=1e-7)
    for a, b in zip(jtu.tree_leaves(state), jtu.tree_leaves(optax_state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_first_order_rejects_what_is_not_finite(standard_promotion):
    """The weights and the state do not change."""
    model = eqx.nn.Linear(3, 3, key=jax.random.key(0))
    x, y = jnp.ones((5, 3)), jnp.zeros(5, jnp.int32)
    for rate, poison, said in (
        (0.1, np.nan, "The loss is not finite"),
        (0.1, np.inf, "The loss is not finite"),
        (np.inf, 1.0, "The update of the optax transformation is not finite."),
    ):
        opt = cv.FirstOrder(CATEGORICAL, optax.sgd(rate, momentum=0.9))
        state = opt.init(model)
        new, after, info = opt.step(model, (x.at[1, 1].set(poison), y), state)
        assert not info.accepted
        assert cv.RESULTS[info.result].startswith(said)
        assert info.step_norm == 0
        assert eqx.tree_equal((new, after), (model, state))


# --- refusals --------------------------------------------------------------------------------


def test_a_model_that_is_not_the_one_of_init_is_refused():
    opt = cv.NaturalGradient(CATEGORICAL)
    small, large = one_layer(), eqx.nn.Linear(3, 3, key=jax.random.key(0))
    batch = (jnp.ones((5, 3)), jnp.zeros(5, jnp.int32))
    with pytest.raises(ValueError, match="Call `init` again"):
        opt.step(large, batch, opt.init(small))


def test_the_state_of_another_optimiser_is_refused():
    model, batch = one_layer(), (jnp.ones((5, 3)), jnp.zeros(5, jnp.int32))
    first_order = cv.FirstOrder(CATEGORICAL, optax.sgd(0.1))
    optimisers = [
        cv.NaturalGradient(CATEGORICAL),
        first_order,
        cv.Averaged(first_order, 0.9),
        cv.ProximalPoint(CATEGORICAL),
    ]
    states = [opt.init(model) for opt in optimisers]
    for i, j in itertools.permutations(range(4), 2):
        with pytest.raises(ValueError, match=r"Call `init` of this optimiser"):
            optimisers[i].step(model, batch, states[j])


def test_the_state_of_other_parts_is_refused():
    """A part without a state may be another one; a setting acts from the next step on."""
    model, batch = one_layer(), (jnp.ones((5, 3)), jnp.zeros(5, jnp.int32))
    optimisers = [
        cv.NaturalGradient(CATEGORICAL),
        cv.NaturalGradient(CATEGORICAL, momentum=cv.Spring(0.9)),
        cv.NaturalGradient(CATEGORICAL, damping=cv.LevenbergMarquardt()),
        cv.NaturalGradient(CATEGORICAL, damping=cv.LevenbergMarquardt(next_batch=True)),
        cv.NaturalGradient(CATEGORICAL, search=optx.LearningRate(0.1)),
        cv.NaturalGradient(CATEGORICAL, cv.KFAC(cv.GaussNewton())),
        cv.NaturalGradient(CATEGORICAL, cv.KFAC(cv.GaussNewton(), damping="factored")),
        cv.NaturalGradient(CATEGORICAL, cv.KFAC(cv.GaussNewton(), max_block=1)),
        cv.NaturalGradient(CATEGORICAL, cv.MovingAverage(cv.KFAC(cv.GaussNewton()), 0.9)),
    ]
    states = [opt.init(model, batch=batch) for opt in optimisers]
    for i, j in itertools.permutations(range(len(optimisers)), 2):
        with pytest.raises(ValueError, match=r"got a state for .*; this optimiser has "):
            optimisers[i].step(model, batch, states[j])
    others = [
        (cv.NaturalGradient(CATEGORICAL, cv.ExactFisher(), damping=0.5), states[0]),
        (cv.NaturalGradient(CATEGORICAL, cv.KFAC(cv.GaussNewton(), every=3)), states[5]),
    ]
    for opt, state in others:
        _, _, info = opt.step(model, batch, state)
        assert info.accepted
