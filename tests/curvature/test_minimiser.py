"""`Minimiser` as a solver of `optimistix.minimise`: its minima, its results and its errors."""

import itertools

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import optimistix as optx
import pytest
import scipy.optimize

import curvature as cv
from tests.curvature.written import Cliff, Line, flat
from tests.selection import slow_but

pytestmark = pytest.mark.usefixtures("as_installed")

N = 40
TOL = {"rtol": 1e-9, "atol": 1e-9}
LOGISTIC = cv.Supervised(cv.Bernoulli())
LEAST_SQUARES = cv.Supervised(cv.Gaussian())


def linear(outputs=1):
    return eqx.nn.Linear(3, outputs, key=jax.random.key(0))


def data(seed=0):
    """Labels that no plane separates, so that the minimum is unique and finite."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, 3))
    y = rng.uniform(size=(N, 1)) < 1 / (1 + np.exp(-x[:, :1]))
    return jnp.asarray(x), jnp.asarray(y, float)


def minimise(solver, batch, model=None, **kwargs):
    params, frozen = eqx.partition(linear() if model is None else model, eqx.is_inexact_array)
    return optx.minimise(solver.fn, solver, params, args=(frozen, batch), **kwargs)


def newton():
    """The natural gradient, which is Newton's method for logistic regression."""
    return cv.NaturalGradient(LOGISTIC, solver=lx.Cholesky(), damping=1e-6)


@pytest.fixture(scope="module")
def run():
    """A function (batch, model) -> the solution by Newton's method and the verbose reports.

    The minimised function has an `aux`.
    """
    seen = []

    def verbose(**values):
        names = {key: name for key, (name, _) in values.items()}
        assert names["num_steps"] == "Step"
        numbers = {key: value for key, (_, value) in values.items()}
        jax.debug.callback(lambda **numbers: seen.append(numbers), **numbers)

    solver = cv.Minimiser(newton(), **TOL, verbose=verbose)

    @eqx.filter_jit
    def compiled(params, frozen, batch):
        def fn(params, args):
            return solver.fn(params, args), params.weight[0, 0]

        return optx.minimise(
            fn, solver, params, args=(frozen, batch), has_aux=True, throw=False, max_steps=30
        )

    def solution(batch, model=None):
        seen.clear()
        params, frozen = eqx.partition(linear() if model is None else model, eqx.is_inexact_array)
        found = compiled(params, frozen, batch)
        jax.effects_barrier()
        return found, list(seen)

    with jax.enable_x64(True):
        yield solution


def loss(w, x, y):
    z = np.asarray(x) @ w[:3] + w[3]
    return np.mean(np.log1p(np.exp(z)) - np.asarray(y)[:, 0] * z)


def test_the_minimum_is_that_of_scipy(x64, run):
    """The `aux` is that of the last iterate, and `verbose` is called at every step."""
    x, y = data()
    solution, seen = run((x, y))
    reference = scipy.optimize.minimize(loss, np.zeros(4), (x, y), method="Nelder-Mead", tol=1e-13)
    w = flat(solution.value)
    assert solution.result == optx.RESULTS.successful
    assert solution.stats["num_steps"] < 10
    np.testing.assert_allclose(w, reference.x, rtol=1e-5)
    np.testing.assert_allclose(loss(w, x, y), reference.fun, rtol=1e-12)
    assert solution.aux == solution.value.weight[0, 0]
    assert [int(values["num_steps"]) for values in seen] == list(range(len(seen)))
    assert len(seen) == solution.stats["num_steps"]
    for before, after in itertools.pairwise(seen):
        np.testing.assert_allclose(after["loss"], before["new_loss"], rtol=1e-6)
    np.testing.assert_allclose(seen[-1]["new_loss"], reference.fun, rtol=1e-6)


def test_a_loss_that_is_not_finite_is_divergence(x64, run):
    x, y = data()
    solution, _ = run((x.at[0, 0].set(jnp.nan), y))
    assert solution.result == optx.RESULTS.nonlinear_divergence
    assert solution.stats["num_steps"] == 1
    assert solution.stats["reason"] == cv.RESULTS.nonfinite_loss
    np.testing.assert_array_equal(flat(solution.value), flat(linear()))


def test_a_gradient_of_zero_is_a_minimum(x64, run):
    """For all targets ½ the gradient at zero weights is zero."""
    x, _ = data()
    model = jax.tree.map(jnp.zeros_like, linear())
    solution, _ = run((x, jnp.zeros((N, 1)) + 0.5), model)
    assert solution.result == optx.RESULTS.successful
    assert solution.stats["num_steps"] == 1
    assert not np.any(flat(solution.value))


def test_steps_are_the_optimisers_own(x64):
    """Step t has the key fold_in(key, t), and the state is carried from step to step."""
    batch, key, model = data(), jax.random.key(5), linear()
    opt = cv.NaturalGradient(
        LOGISTIC,
        curvature=cv.SampledFisher(),
        solver=lx.Cholesky(),
        damping=cv.LevenbergMarquardt(1.0),
    )
    solver = cv.Minimiser(opt, **TOL)
    solution = minimise(solver, batch, options={"key": key}, max_steps=3, throw=False)
    assert solution.result == optx.RESULTS.nonlinear_max_steps_reached
    state = opt.init(model)
    for step in range(3):
        model, state, _ = opt.step(model, batch, state, key=jax.random.fold_in(key, step))
    np.testing.assert_allclose(flat(solution.value), flat(model), rtol=1e-12)
    found = solution.state.optimiser.damping.damping
    np.testing.assert_allclose(found, state.damping.damping, rtol=1e-12)


def test_vmap_gives_the_minimum_of_every_batch_and_a_frozen_weight_stays(x64):
    """At the minimum the gradient in the weight is zero, and that in the frozen bias is not."""
    model, batches = linear(), jax.tree.map(lambda *a: jnp.stack(a), *map(data, range(3)))
    spec = eqx.tree_at(lambda m: m.bias, jax.tree.map(lambda _: True, model), False)
    params, frozen = eqx.partition(model, spec)
    solver = cv.Minimiser(newton(), **TOL)

    @jax.jit
    @jax.vmap
    def minima(batch):
        return optx.minimise(solver.fn, solver, params, args=(frozen, batch)).value

    found, (xs, ys) = minima(batches), map(np.asarray, batches)
    assert found.bias is None
    for w, x, y in zip(found.weight, xs, ys, strict=True):
        residual = 1 / (1 + np.exp(-x @ w[0] - model.bias)) - y[:, 0]
        np.testing.assert_allclose(x.T @ residual / N, 0, atol=1e-9)
        assert np.abs(residual.mean()) > 1e-3


def test_the_minimum_is_differentiable_in_the_targets(x64):
    """For least squares, w* = (XᵀX)⁻¹Xᵀy; X has the inputs and a column of ones."""
    (x, _), y = data(), np.random.default_rng(1).normal(size=(N, 1))
    opt = cv.NaturalGradient(LEAST_SQUARES, solver=lx.Cholesky(), damping=1e-9)
    solver = cv.Minimiser(opt, **TOL)

    def minimum(y):
        w = jfu.ravel_pytree(minimise(solver, (x, y)).value)[0]
        return w, w

    X = np.concatenate([x, np.ones((N, 1))], axis=1)
    expected = np.linalg.solve(X.T @ X, X.T)
    derivative, w = jax.jit(jax.jacrev(minimum, has_aux=True))(jnp.asarray(y))
    np.testing.assert_allclose(w, expected @ y[:, 0], rtol=1e-6)
    np.testing.assert_allclose(derivative[..., 0], expected, atol=1e-9)


def test_a_curvature_may_have_a_state(x64, run):
    opt = cv.NaturalGradient(
        LOGISTIC, cv.MovingAverage(cv.GaussNewton(), 0.5), solver=lx.Cholesky(), damping=1e-6
    )
    solution = minimise(cv.Minimiser(opt, **TOL), data())
    np.testing.assert_allclose(flat(solution.value), flat(run(data())[0].value), rtol=1e-6)


# --- results ---------------------------------------------------------------------------------


SGD = cv.Minimiser(cv.FirstOrder(LOGISTIC, optax.sgd(0.1)), **TOL)


def test_too_few_steps_is_a_result_and_raises_if_asked(x64):
    solution = minimise(SGD, data(), max_steps=2, throw=False)
    assert solution.result == optx.RESULTS.nonlinear_max_steps_reached
    assert solution.stats["num_steps"] == 2
    with pytest.raises(eqx.EquinoxRuntimeError, match="maximum number of steps"):
        minimise(SGD, data(), max_steps=2)


def test_a_loss_that_is_not_finite_is_divergence_for_first_order_too(x64):
    x, y = data()
    solution = minimise(SGD, (x.at[0, 0].set(jnp.nan), y), throw=False)
    assert solution.result == optx.RESULTS.nonlinear_divergence
    assert solution.stats["num_steps"] == 1
    assert solution.stats["reason"] == cv.RESULTS.nonfinite_loss


def test_max_rejections_in_a_row_are_divergence(x64):
    opt = cv.NaturalGradient(
        cv.Supervised(Cliff()),
        cv.Identity(),
        damping=0.1,
        search=optx.BacktrackingArmijo(),
        max_search_steps=1,
    )
    model, batch = Line(jnp.asarray([3.0, 1.0, -3.0])), (jnp.ones((4, 3)), jnp.zeros((4, 1)))
    solver = cv.Minimiser(opt, **TOL, max_rejections=7)
    solution = minimise(solver, batch, model, max_steps=None, throw=False)
    assert solution.result == optx.RESULTS.nonlinear_divergence
    assert solution.stats["num_steps"] == 7
    assert "no acceptable step size" in cv.RESULTS[solution.stats["reason"]]


def test_it_reaches_the_minimum_after_rejected_steps(x64, run):
    """From such large weights the first full steps increase the loss, are rejected and raise λ."""
    opt = cv.NaturalGradient(
        LOGISTIC,
        solver=lx.Cholesky(),
        damping=cv.LevenbergMarquardt(1e-6),
        search=optx.BacktrackingArmijo(),
        max_search_steps=1,
    )
    model = jax.tree.map(lambda w: 40 * w, linear())
    seen = []

    def verbose(**values):
        jax.debug.callback(lambda a: seen.append(bool(a)), values["accepted"][1])

    solution = minimise(cv.Minimiser(opt, **TOL, verbose=verbose), data(), model)
    jax.effects_barrier()
    assert not all(seen)
    np.testing.assert_allclose(flat(solution.value), flat(run(data())[0].value), rtol=1e-6)


# --- verbose output and errors ---------------------------------------------------------------


@pytest.mark.parametrize("verbose", slow_but([True], [True, False]))
def test_verbose_prints_or_is_silent(x64, capfd, verbose):
    solver = cv.Minimiser(SGD.optimiser, **TOL, verbose=verbose)
    minimise(solver, data(), max_steps=2, throw=False)
    jax.effects_barrier()
    said = capfd.readouterr().out
    assert said.startswith("Step: 0, Loss: ") if verbose else said == ""


def test_another_function_is_refused(x64):
    """Refused are a multiple, a shift, and a function that is equal at the first iterate only."""
    params, frozen = eqx.partition(linear(), eqx.is_inexact_array)

    @eqx.filter_jit
    def run(params, change, batch):
        def fn(y, args):
            apart = jnp.sum((y.weight - params.weight) ** 2)
            return change[0] * SGD.fn(y, args) + change[1] + change[2] * apart

        args = frozen, batch
        return optx.minimise(fn, SGD, params, args=args, max_steps=3, throw=False)

    run(params, jnp.asarray([1.0, 0.0, 0.0]), data())
    for change in ([2.0, 0.0, 0.0], [1.0, 1e-3, 0.0], [1.0, 0.0, 1.0]):
        with pytest.raises(eqx.EquinoxRuntimeError, match="is not the loss that `optimiser` minim"):
            jax.block_until_ready(run(params, jnp.asarray(change), data()))


def test_the_same_function_in_other_code_is_accepted(standard_promotion):
    """In float32 another order of summation changes the last digits, which must be accepted."""
    x, y = data()

    def fn(params, args):
        z = x @ params.weight[0] + params.bias
        return jnp.mean(jnp.where(y[:, 0] > 0, 0, z) + jnp.log1p(jnp.exp(-z)))

    params, frozen = eqx.partition(linear(), eqx.is_inexact_array)
    solver = cv.Minimiser(newton(), rtol=1e-4, atol=1e-4)
    solution = optx.minimise(fn, solver, params, args=(frozen, (x, y)))
    assert solution.result == optx.RESULTS.successful


def test_bad_arguments_are_refused():
    params, frozen = eqx.partition(linear(), eqx.is_inexact_array)
    with pytest.raises(ValueError, match=r"must be given `args=\(frozen, batch\)`"):
        optx.minimise(SGD.fn, SGD, params, args={"x": 0, "y": 1})
    with pytest.raises(ValueError, match=r"takes only the option `key`, got \['keys'\]"):
        optx.minimise(SGD.fn, SGD, params, args=(frozen, data()), options={"keys": 1})
