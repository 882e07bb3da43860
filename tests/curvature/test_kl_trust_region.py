"""The KL trust region: how far it goes, and where it turns back."""

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
from tests.curvature.cases import CURVATURES, LIKELIHOODS, curvature, mlp, supervised
from tests.selection import slow_but

pytestmark = pytest.mark.usefixtures("x64")

KEY = jax.random.key(3)


def flat(model):
    return jfu.ravel_pytree(eqx.filter(model, eqx.is_inexact_array))[0]


def optimiser(case, metric, delta, **kwargs):
    search = cv.KLTrustRegion(delta, **kwargs)
    return cv.NaturalGradient(case.objective, curvature=metric, damping=1e-3, search=search)


@pytest.mark.parametrize("name", slow_but(["true_fisher"], CURVATURES))
def test_a_step_stays_within_the_bound(name):
    case = supervised(mlp(jnp.tanh), "categorical")
    for delta in (1e-6, 1e-2):
        opt = optimiser(case, curvature(name, "categorical"), delta)
        _, _, info = opt.step(case.model, case.batch, opt.init(case.model), key=KEY)
        assert info.accepted
        assert info.metric_step <= delta * (1 + 1e-9)
        if delta == 1e-6:
            # Small enough to be reached at once.
            np.testing.assert_allclose(info.metric_step, delta, rtol=1e-6)


@pytest.mark.parametrize("likelihood", slow_but(["bernoulli"], LIKELIHOODS))
def test_the_bound_is_the_kl_divergence_for_small_steps(likelihood):
    case = supervised(mlp(jnp.tanh), likelihood)
    metric, delta = curvature("exact_fisher", likelihood), 1e-8
    opt = optimiser(case, metric, delta)
    new, _, info = opt.step(case.model, case.batch, opt.init(case.model))
    before, after = (jax.vmap(model)(case.batch[0]) for model in (case.model, new))
    divergence = jnp.mean(jax.vmap(case.objective.likelihood.kl)(before, after))
    np.testing.assert_allclose(info.metric_step, delta, rtol=1e-6)
    np.testing.assert_allclose(divergence, delta, rtol=1e-3)


def test_within_the_bound_it_goes_to_the_minimum_of_the_quadratic_model():
    """Of least squares that is the minimum along d."""
    case = supervised(eqx.nn.Linear(3, 3, key=jax.random.key(0)), "gaussian")
    linearisation = case.objective.linearise(case.model, case.batch)
    C, g = cv.GaussNewton().operator(linearisation).as_matrix(), flat(linearisation.grad)
    for damping in (1e-3, 10.0):
        search = cv.KLTrustRegion(1e6)
        opt = cv.NaturalGradient(case.objective, cv.GaussNewton(), damping=damping, search=search)
        d = np.linalg.solve(C + damping * np.eye(len(C)), g)
        new, _, info = opt.step(case.model, case.batch, opt.init(case.model))
        np.testing.assert_allclose(
            flat(new), flat(case.model) - d * (d @ g) / (d @ C @ d), rtol=1e-7
        )
        np.testing.assert_allclose(info.reduction_ratio, 1, rtol=1e-7)


@pytest.mark.parametrize("scale", slow_but([1e3], [1e-3, 1e3]))
def test_the_step_does_not_depend_on_the_scale_of_the_gradient(scale):
    """A loss in other units: g, hence d, is multiplied, C is not."""

    class Scaled(cv.AbstractLikelihood):
        inner: cv.AbstractLikelihood
        scale: float

        def nll(self, z, y):
            return self.scale * self.inner.nll(z, y)

        def sample(self, z, *, key):
            return self.inner.sample(z, key=key)

        def fisher_factor(self, z):
            return self.inner.fisher_factor(z)

        def kl(self, z, z2):
            return self.inner.kl(z, z2)

        def squared_hellinger(self, z, z2):
            return self.inner.squared_hellinger(z, z2)

    case = supervised(mlp(jnp.tanh), "categorical")
    found = []
    for factor in (1.0, scale):
        objective = cv.Supervised(Scaled(cv.Categorical(), factor))
        delta = 1e-10  # so small that the bound decides, and not the quadratic model
        opt = cv.NaturalGradient(
            objective, cv.ExactFisher(), damping=1e-3, search=cv.KLTrustRegion(delta)
        )
        new, _, info = opt.step(case.model, case.batch, opt.init(case.model))
        assert info.accepted
        found.append(flat(new) - flat(case.model))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-12)


class Line(eqx.Module):
    w: jax.Array

    def __call__(self, x):
        return (x * self.w)[None]


class Wall(cv.AbstractLoss):
    """z² down to 0.6, and a wall below: only short steps reduce it."""

    def nll(self, z, y):
        del y
        return jnp.sum(jnp.where(z > 0.6, z**2, 10.0 + z))


@pytest.mark.parametrize("factor", [0.8, 0.5])
def test_it_backtracks_until_the_loss_decreases(factor):
    """d = w from w = 1, and s = 1 is the minimum of the model: w − s·d must stay above 0.6."""
    model, batch = Line(jnp.asarray(1.0)), (jnp.ones(3), jnp.zeros(3))
    opt = cv.NaturalGradient(
        cv.Supervised(Wall()),
        cv.GaussNewton(),
        damping=0.0,
        search=cv.KLTrustRegion(100.0, decrease_factor=factor),
    )
    new, _, info = opt.step(model, batch, opt.init(model))
    s = 1.0
    while 1 - s <= 0.6:
        s *= factor
    assert info.accepted
    np.testing.assert_allclose(new.w, 1 - s, rtol=1e-12)
    assert opt.objective.loss(new, batch) < opt.objective.loss(model, batch)


def test_where_nothing_decreases_the_loss_the_weights_stay():
    class Cliff(cv.AbstractLoss):
        def nll(self, z, y):
            del y
            here = jax.lax.stop_gradient(z) == 1
            return jnp.sum(jnp.where(here, z**2, 10.0 + z))

    model, batch = Line(jnp.asarray(1.0)), (jnp.ones(3), jnp.zeros(3))
    opt = cv.NaturalGradient(
        cv.Supervised(Cliff()), cv.GaussNewton(), damping=0.0, search=cv.KLTrustRegion()
    )
    new, _, info = opt.step(model, batch, opt.init(model))
    assert not info.accepted
    assert new.w == model.w
    assert cv.RESULTS[info.result].startswith("The search found no acceptable step size")


def test_every_batch_starts_afresh():
    case = supervised(mlp(jnp.tanh), "categorical")
    opt = optimiser(case, cv.ExactFisher(), 1e-4)
    model, state = case.model, opt.init(case.model)
    for _ in range(3):
        model, state, info = opt.step(model, case.batch, state)
        np.testing.assert_allclose(info.metric_step, 1e-4, rtol=1e-6)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"delta": 0.0}, r"`KLTrustRegion\(delta=...\)` must be a positive finite number, got 0"),
        ({"delta": -1.0}, r"`KLTrustRegion\(delta=...\)` must be a positive"),
        ({"decrease_factor": 0.0}, r"`KLTrustRegion\(decrease_factor=...\)` must be a positive"),
        ({"decrease_factor": 1.0}, r"`KLTrustRegion\(decrease_factor=...\)` must be less than 1"),
    ],
)
def test_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        cv.KLTrustRegion(**kwargs)
