"""The KL trust region: the length of its steps, and its backtracking."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import curvature as cv
from tests.curvature.cases import LIKELIHOODS, curvature, supervised
from tests.curvature.written import MODELS, Cliff, Line, Written, flat
from tests.selection import slow_but

pytestmark = pytest.mark.usefixtures("x64", "as_installed")

KEY = jax.random.key(3)


def optimiser(case, metric, delta, **kwargs):
    search = cv.KLTrustRegion(delta, **kwargs)
    return cv.NaturalGradient(
        case.objective, curvature=metric, solver=lx.Cholesky(), damping=1e-3, search=search
    )


@pytest.mark.parametrize("name", slow_but(["true_fisher"], ["true_fisher", "identity"]))
def test_a_step_stays_within_the_bound(name):
    """The second batch starts again from the bound, not from the last step size."""
    case = MODELS["one layer"]("categorical")
    for delta in (1e-6, 1e-2):
        opt = optimiser(case, curvature(name, "categorical"), delta)
        model, state = case.model, opt.init(case.model)
        for _ in range(2):
            model, state, info = opt.step(model, case.batch, state, key=KEY)
            assert info.accepted
            assert info.metric_step <= delta * (1 + 1e-9)
            if delta == 1e-6:  # the bound is so small that the first step size is accepted
                np.testing.assert_allclose(info.metric_step, delta, rtol=1e-6)


@pytest.mark.parametrize("likelihood", slow_but(["gaussian"], LIKELIHOODS))
def test_the_bound_is_the_kl_divergence_for_small_steps(likelihood):
    case = supervised(eqx.nn.Linear(3, 3, key=jax.random.key(0)), likelihood)
    metric, delta = curvature("exact_fisher", likelihood), 1e-8
    opt = optimiser(case, metric, delta)
    new, _, info = opt.step(case.model, case.batch, opt.init(case.model))

    @eqx.filter_jit
    def divergence(*models):
        outputs = (jax.vmap(model)(case.batch[0]) for model in models)
        return jnp.mean(jax.vmap(case.objective.likelihood.kl)(*outputs))

    np.testing.assert_allclose(info.metric_step, delta, rtol=1e-6)
    np.testing.assert_allclose(divergence(case.model, new), delta, rtol=1e-3)


@pytest.mark.parametrize(("model_minimum", "times"), [(True, 1.0), (False, 1.5)])
def test_without_model_minimum_the_step_goes_to_the_bound(model_minimum, times):
    """The bound is at 1.5 times the step size of the minimum along d.

    For least squares the loss decreases up to twice this step size, so both steps are accepted.
    """
    case = supervised(eqx.nn.Linear(3, 3, key=jax.random.key(0)), "gaussian")
    _, g, C = Written(case, "gauss_newton")(flat(case.model))
    d = np.linalg.solve(C + 1e-3 * np.eye(len(C)), g)
    at_minimum = (d @ g) / (d @ C @ d)
    delta = (1.5 * at_minimum) ** 2 * (d @ C @ d) / 2
    search = cv.KLTrustRegion(delta, model_minimum=model_minimum)
    opt = cv.NaturalGradient(case.objective, solver=lx.Cholesky(), damping=1e-3, search=search)
    new, _, info = opt.step(case.model, case.batch, opt.init(case.model))
    assert info.accepted
    np.testing.assert_allclose(flat(new), flat(case.model) - times * at_minimum * d, rtol=1e-7)


def test_within_the_bound_it_goes_to_the_minimum_of_the_quadratic_model():
    """For least squares this is the minimum of the loss along d."""
    case = supervised(eqx.nn.Linear(3, 3, key=jax.random.key(0)), "gaussian")
    written = Written(case, "gauss_newton")
    _, g, C = written(written.w)
    for damping in (1e-3, 10.0):
        search = cv.KLTrustRegion(1e6)
        opt = cv.NaturalGradient(
            case.objective, solver=lx.Cholesky(), damping=damping, search=search
        )
        d = np.linalg.solve(C + damping * np.eye(len(C)), g)
        new, _, info = opt.step(case.model, case.batch, opt.init(case.model))
        np.testing.assert_allclose(
            flat(new), flat(case.model) - d * (d @ g) / (d @ C @ d), rtol=1e-7
        )
        np.testing.assert_allclose(info.reduction_ratio, 1, rtol=1e-7)


def test_the_step_does_not_depend_on_the_scale_of_the_gradient():
    """A scaled loss multiplies g and d, but not the Fisher."""
    case, found = MODELS["one layer"]("categorical"), []

    class Scaled(cv.Categorical):
        scale: jax.Array = None

        def nll(self, z, y):
            return self.scale * super().nll(z, y)

    for factor in (1.0, 1e3, 1e-3):
        objective = cv.Supervised(Scaled(scale=jnp.asarray(factor)))
        search = cv.KLTrustRegion(1e-10)  # so small that s is at the bound, not at the minimum
        opt = cv.NaturalGradient(
            objective, cv.ExactFisher(), solver=lx.Cholesky(), damping=1e-3, search=search
        )
        new, _, info = opt.step(case.model, case.batch, opt.init(case.model))
        assert info.accepted
        found.append(flat(new) - flat(case.model))
    for step in found[1:]:
        np.testing.assert_allclose(step, found[0], rtol=1e-5, atol=1e-12)


class Wall(cv.AbstractLoss):
    """z² for z > 0.6, and 10 + z below: only short steps from z = 1 reduce it."""

    def nll(self, z, y):
        del y
        return jnp.sum(jnp.where(z > 0.6, z**2, 10.0 + z))


def walled(loss, **kwargs):
    """One step from w = 1 along d = w, with s = 1 at the minimum of the quadratic model."""
    search = cv.KLTrustRegion(100.0, **kwargs)
    opt = cv.NaturalGradient(cv.Supervised(loss), solver=lx.Cholesky(), damping=0.0, search=search)
    model, batch = Line(jnp.ones(1)), (jnp.ones((3, 1)), jnp.zeros(3))
    new, _, info = opt.step(model, batch, opt.init(model))
    return float(new.w[0]), info


def test_it_backtracks_until_the_loss_decreases():
    """It backtracks until w − s·d > 0.6. If no step decreases the loss, the weight is kept."""
    for factor in (0.8, 0.5):
        w, info = walled(Wall(), decrease_factor=factor)
        s = 1.0
        while 1 - s <= 0.6:
            s *= factor
        assert info.accepted
        np.testing.assert_allclose(w, 1 - s, rtol=1e-12)
    w, info = walled(Cliff())
    assert not info.accepted
    assert w == 1
    assert cv.RESULTS[info.result].startswith("The search found no acceptable step size")
