"""`Minimiser` behind `optimistix.minimise`: its minima, how it ends, and what it refuses."""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import optimistix as optx
import pytest
import scipy.optimize

import curvature as cv

# Small programs, compiled once each.
N = 40
TOL = {"rtol": 1e-9, "atol": 1e-9}
LOGISTIC = cv.Supervised(cv.Bernoulli())
LEAST_SQUARES = cv.Supervised(cv.Gaussian())


def linear(outputs=1):
    return eqx.nn.Linear(3, outputs, key=jax.random.key(0))


def data(seed=0):
    """Labels that no plane separates: the minimum is unique, and finite."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, 3))
    y = rng.uniform(size=(N, 1)) < 1 / (1 + np.exp(-x[:, :1]))
    return jnp.asarray(x), jnp.asarray(y, float)


def minimise(solver, batch, model=None, **kwargs):
    params, frozen = eqx.partition(linear() if model is None else model, eqx.is_inexact_array)
    return optx.minimise(solver.fn, solver, params, args=(frozen, batch), **kwargs)


def flat(params):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])


def newton():
    """Gauss–Newton is Newton's method here."""
    return cv.NaturalGradient(LOGISTIC, solver=lx.Cholesky(), damping=1e-6)


class Rejecting(cv.AbstractOptimiser):
    """An optimiser that never takes its step."""

    inner: cv.AbstractOptimiser

    @property
    def objective(self):
        return self.inner.objective

    def init(self, model, trainable=eqx.is_inexact_array):
        return self.inner.init(model, trainable)

    def step(self, model, batch, state, *, key=None):
        _, _, info = self.inner.step(model, batch, state, key=key)
        where = lambda i: (i.accepted, i.result)  # noqa: E731
        values = jnp.zeros((), bool), cv.RESULTS.search_exhausted
        return model, state, eqx.tree_at(where, info, values)

    def plan(self, model, batch, trainable=eqx.is_inexact_array, *, key=None):
        del model, batch, trainable, key


def test_the_minimum_is_that_of_bfgs_and_of_scipy(x64):
    x, y = data()
    solver = cv.Minimiser(newton(), **TOL)
    solution = minimise(solver, (x, y))
    params, frozen = eqx.partition(linear(), eqx.is_inexact_array)
    bfgs = optx.minimise(solver.fn, optx.BFGS(**TOL), params, args=(frozen, (x, y)))

    def loss(w):
        z = np.asarray(x) @ w[:3] + w[3]
        return np.mean(np.log1p(np.exp(z)) - np.asarray(y)[:, 0] * z)

    reference = scipy.optimize.minimize(loss, np.zeros(4), method="Nelder-Mead", tol=1e-13)
    assert solution.result == optx.RESULTS.successful
    assert solution.stats["num_steps"] < 10 < bfgs.stats["num_steps"]
    np.testing.assert_allclose(flat(solution.value), flat(bfgs.value), rtol=1e-6)
    np.testing.assert_allclose(flat(solution.value), reference.x, rtol=1e-5)
    np.testing.assert_allclose(solver.fn(solution.value, (frozen, (x, y))), reference.fun)


def test_steps_are_the_optimisers_own(x64):
    """With the key fold_in(key, t) of step t, and a state that is carried."""
    batch, key, model = data(), jax.random.key(5), linear()
    opt = cv.NaturalGradient(
        LOGISTIC,
        curvature=cv.SampledFisher(),
        solver=lx.Cholesky(),
        damping=cv.LevenbergMarquardt(1.0),
    )
    solution = minimise(
        cv.Minimiser(opt, **TOL), batch, options={"key": key}, max_steps=3, throw=False
    )
    assert solution.result == optx.RESULTS.nonlinear_max_steps_reached
    state = opt.init(model)
    for step in range(3):
        model, state, _ = opt.step(model, batch, state, key=jax.random.fold_in(key, step))
    np.testing.assert_allclose(flat(solution.value), flat(model), rtol=1e-12)
    np.testing.assert_allclose(solution.state.optimiser.damping, state.damping, rtol=1e-12)


def test_a_frozen_weight_stays(x64):
    batch, model = data(), linear()
    spec = eqx.tree_at(lambda m: m.bias, jax.tree.map(lambda _: True, model), False)
    params, frozen = eqx.partition(model, spec)
    solver = cv.Minimiser(newton(), **TOL)
    solution = optx.minimise(solver.fn, solver, params, args=(frozen, batch))
    assert solution.value.bias is None
    at = eqx.combine(solution.value, frozen)
    grad = eqx.filter_grad(LOGISTIC.loss)(at, batch)
    np.testing.assert_allclose(grad.weight, 0, atol=1e-9)
    assert np.abs(grad.bias).max() > 1e-3


def test_vmap_gives_the_minimum_of_every_batch(x64):
    solver = cv.Minimiser(newton(), **TOL)
    batches = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(data(seed) for seed in range(3)))
    together = jax.jit(jax.vmap(lambda batch: minimise(solver, batch).value))(batches)
    for seed in range(3):
        alone = minimise(solver, data(seed)).value
        at = jax.tree.map(lambda leaf, i=seed: leaf[i], together)
        np.testing.assert_allclose(flat(at), flat(alone), rtol=1e-7)


def test_the_minimum_is_differentiable_in_the_targets(x64):
    """Least squares: w* = (XᵀX)⁻¹Xᵀy, with X the inputs and a column of ones."""
    x, _ = data()
    y = jnp.asarray(np.random.default_rng(1).normal(size=(N, 1)))
    solver = cv.Minimiser(
        cv.NaturalGradient(LEAST_SQUARES, solver=lx.Cholesky(), damping=1e-9), **TOL
    )

    def minimum(y):
        return jax.flatten_util.ravel_pytree(minimise(solver, (x, y)).value)[0]

    X = np.concatenate([x, np.ones((N, 1))], axis=1)
    expected = np.linalg.solve(X.T @ X, X.T)
    np.testing.assert_allclose(minimum(y), expected @ np.asarray(y)[:, 0], rtol=1e-6)
    np.testing.assert_allclose(jax.jacrev(minimum)(y)[..., 0], expected, atol=1e-9)


def test_aux_is_of_the_last_iterate(x64):
    solver, batch = cv.Minimiser(newton(), **TOL), data()
    params, frozen = eqx.partition(linear(), eqx.is_inexact_array)

    def fn(params, args):
        return solver.fn(params, args), params.weight[0, 0]

    solution = optx.minimise(fn, solver, params, args=(frozen, batch), has_aux=True)
    assert solution.aux == solution.value.weight[0, 0]


# --- how it ends -----------------------------------------------------------------------------


def test_too_few_steps_is_a_result_and_raises_if_asked(x64):
    solver = cv.Minimiser(newton(), **TOL)
    solution = minimise(solver, data(), max_steps=2, throw=False)
    assert solution.result == optx.RESULTS.nonlinear_max_steps_reached
    assert solution.stats["num_steps"] == 2
    with pytest.raises(eqx.EquinoxRuntimeError, match="maximum number of steps"):
        minimise(solver, data(), max_steps=2)


@pytest.mark.parametrize("opt", [newton(), cv.FirstOrder(LOGISTIC, optax.sgd(0.1))])
def test_what_is_not_finite_has_diverged(x64, opt):
    x, y = data()
    solution = minimise(cv.Minimiser(opt, **TOL), (x.at[0, 0].set(jnp.nan), y), throw=False)
    assert solution.result == optx.RESULTS.nonlinear_divergence
    assert solution.stats["num_steps"] == 1
    assert solution.stats["reason"] == cv.RESULTS.nonfinite_loss
    np.testing.assert_array_equal(flat(solution.value), flat(linear()))


def test_an_endless_run_of_rejections_has_diverged(x64):
    solver = cv.Minimiser(Rejecting(newton()), **TOL, max_rejections=7)
    solution = minimise(solver, data(), max_steps=None, throw=False)
    assert solution.result == optx.RESULTS.nonlinear_divergence
    assert solution.stats["num_steps"] == 7
    assert "no acceptable step size" in cv.RESULTS[solution.stats["reason"]]
    with pytest.raises(eqx.EquinoxRuntimeError, match="diverged"):
        minimise(solver, data(), max_steps=None)


def test_rejections_on_the_way_to_a_minimum_are_gone_through(x64):
    """From weights this large the first full steps go astray, and raise λ."""
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
    np.testing.assert_allclose(
        flat(solution.value), flat(minimise(cv.Minimiser(newton(), **TOL), data()).value), rtol=1e-6
    )


def test_a_gradient_of_zero_is_a_minimum(x64):
    x, _ = data()
    model = jax.tree.map(jnp.zeros_like, linear())
    solver = cv.Minimiser(cv.NaturalGradient(LEAST_SQUARES, solver=lx.Cholesky()), **TOL)
    solution = minimise(solver, (x, jnp.zeros((N, 1))), model)
    assert solution.result == optx.RESULTS.successful
    assert solution.stats["num_steps"] == 1


# --- what it says, and what it refuses -------------------------------------------------------


def test_verbose_names_every_value_or_prints_it(x64, capfd):
    seen: list[dict[str, Any]] = []

    def verbose(**values):
        names = {key: name for key, (name, _) in values.items()}
        assert names["num_steps"] == "Step"
        numbers = {key: value for key, (_, value) in values.items()}
        jax.debug.callback(lambda **numbers: seen.append(numbers), **numbers)

    solution = minimise(cv.Minimiser(newton(), **TOL, verbose=verbose), data())
    jax.effects_barrier()
    assert [int(values["num_steps"]) for values in seen] == list(range(len(seen)))
    assert len(seen) == solution.stats["num_steps"]
    for before, after in itertools.pairwise(seen):
        np.testing.assert_allclose(after["loss"], before["new_loss"], rtol=1e-12)
    capfd.readouterr()
    minimise(cv.Minimiser(newton(), **TOL, verbose=True), data())
    jax.effects_barrier()
    assert capfd.readouterr().out.startswith("Step: 0, Loss: ")
    minimise(cv.Minimiser(newton(), **TOL), data())
    jax.effects_barrier()
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    "change",
    [
        lambda loss, params, start: 2 * loss,
        lambda loss, params, start: loss + 1e-3,
        # The same at the start, and nowhere else.
        lambda loss, params, start: loss + optax.tree.norm(optax.tree.sub(params, start)) ** 2,
    ],
)
def test_another_function_is_refused(x64, change):
    solver, batch = cv.Minimiser(newton(), **TOL), data()
    params, frozen = eqx.partition(linear(), eqx.is_inexact_array)

    def fn(y, args):
        return change(solver.fn(y, args), y, params)

    with pytest.raises(eqx.EquinoxRuntimeError, match="is not the loss that `optimiser` minimises"):
        optx.minimise(fn, solver, params, args=(frozen, batch), throw=False)


def test_the_same_function_written_otherwise_is_taken(standard_promotion):
    """In float32, where another order of the sums moves the last digits."""
    x, y = data()

    def fn(params, args):
        z = x @ params.weight[0] + params.bias
        return jnp.mean(jnp.where(y[:, 0] > 0, 0, z) + jnp.log1p(jnp.exp(-z)))

    params, frozen = eqx.partition(linear(), eqx.is_inexact_array)
    solver = cv.Minimiser(newton(), rtol=1e-4, atol=1e-4)
    solution = optx.minimise(fn, solver, params, args=(frozen, (x, y)))
    assert solution.result == optx.RESULTS.successful


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"args": "batch"}, r"must be given `args=\(frozen, batch\)`"),
        ({"options": {"keys": 1}}, r"takes the option `key` alone, got \['keys'\]"),
    ],
)
def test_bad_arguments_are_refused(as_installed, kwargs, message):
    solver, batch = cv.Minimiser(newton(), **TOL), data()
    params, frozen = eqx.partition(linear(), eqx.is_inexact_array)
    kwargs = {"args": (frozen, batch)} | kwargs
    if kwargs["args"] == "batch":
        kwargs["args"] = {"x": batch[0], "y": batch[1]}
    with pytest.raises(ValueError, match=message):
        optx.minimise(solver.fn, solver, params, **kwargs)


def test_max_rejections_must_be_positive(as_installed):
    with pytest.raises(ValueError, match=r"`Minimiser\(max_rejections=...\)` must be a positive"):
        cv.Minimiser(newton(), **TOL, max_rejections=0)
