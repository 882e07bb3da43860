"""The proximal step: it minimises the dense proximal objective, and tends to a natural gradient."""

import dataclasses

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

import curvature as cv
from tests.curvature import cases, dense
from tests.selection import slow_but

pytestmark = pytest.mark.usefixtures("standard_promotion", "as_installed")

DIVERGENCES = {
    "kl": (cv.KL(), lambda p: p.kl),
    "hellinger": (cv.SquaredHellinger(), lambda p: p.squared_hellinger),
    "euclidean": (cv.SquaredEuclidean(), lambda p: lambda z, z2: jnp.sum((z - z2) ** 2) / 2),
    "a function": (
        lambda z, z2: jnp.sum(jnp.cosh(z2 - z) - 1),
        lambda p: lambda z, z2: jnp.sum(jnp.cosh(z - z2) - 1),
    ),
}
EXACT = optx.BFGS(rtol=1e-12, atol=1e-12)


class Written:
    """L and D(w, ·) of a case as functions of the flat weights, by their definitions."""

    def __init__(self, case, rho=lambda p: p.kl):
        params, frozen = eqx.partition(case.model, case.trainable)
        self.w, unravel = jfu.ravel_pytree(params)
        self.model = lambda w: eqx.combine(unravel(w), frozen)
        self.loss = jax.jit(lambda w: dense.loss(case.terms, self.model(w)))

        def divergence(w2):
            total = 0.0
            for term in case.terms:
                z, z2 = term.values(self.model(self.w)), term.values(self.model(w2))
                total += term.weight * jnp.mean(jax.vmap(rho(term.distribution))(z, z2))
            return total

        self.divergence = jax.jit(divergence)


def flat(case, model):
    return np.asarray(jfu.ravel_pytree(eqx.filter(model, case.trainable))[0])


def step(opt, case, **kwargs):
    model, _, info = opt.step(
        case.model, case.batch, opt.init(case.model, case.trainable), **kwargs
    )
    return flat(case, model), info


class Packed(eqx.Module):
    """A perceptron 2-2-2 with its weights in one array, so that a minimiser compiles fast."""

    weights: jax.Array
    shift: jax.Array

    def __call__(self, x):
        first, second = self.weights.reshape(2, 2, 3)
        hidden = jnp.tanh(first[:, :2] @ x + first[:, 2])
        return second[:, :2] @ hidden + second[:, 2] + self.shift


def small(likelihood="bernoulli"):
    """A case with few weights and many outputs, so that C is definite; the shift is frozen."""
    weights = jax.random.normal(jax.random.key(1), (12,))
    trainable = Packed(weights=True, shift=False)
    return cases.supervised(
        Packed(weights, jnp.asarray(0.3)),
        likelihood,
        inputs=(2,),
        outputs=(2,),
        n=30,
        trainable=trainable,
    )


SETTINGS = [("one", "a function", 0.0), ("several", "kl", 0.0), ("one", "hellinger", 0.7)]


@pytest.mark.parametrize(("terms", "name", "l2"), slow_but(SETTINGS[:1], SETTINGS))
def test_the_step_is_a_minimum_and_its_numbers_are_reported(x64, terms, name, l2):
    """The penalty ½ l2 ‖w‖² includes the frozen shift, as a constant."""
    case = small() if terms == "one" else cases.MODELS["several_terms"]("gaussian")
    strength = 5.0
    rho, reference = DIVERGENCES[name]
    written = Written(case, reference)

    def loss(w):
        penalty = l2 * (w @ w + case.model.shift**2) / 2 if l2 else 0.0
        return written.loss(w) + penalty

    def proximal(w):
        return loss(w) + strength * written.divergence(w)

    objective = cv.Supervised(case.objective.likelihood, l2=l2) if l2 else case.objective
    opt = cv.ProximalPoint(objective, rho, strength, EXACT, max_steps=500)
    w, info = step(opt, case)
    g, residual = jax.jit(lambda w: (jax.grad(loss)(written.w), jax.grad(proximal)(w)))(w)
    residual = np.linalg.norm(residual)
    assert info.accepted
    assert residual < 1e-6 * np.linalg.norm(g)
    expected = {
        "loss": loss(written.w),
        "grad_norm": np.linalg.norm(g),
        "step_norm": np.linalg.norm(w - written.w),
        "damping": strength,
        "metric_step": written.divergence(w),
    }
    for field, value in expected.items():
        np.testing.assert_allclose(getattr(info, field), value, rtol=1e-9, err_msg=field)
    np.testing.assert_allclose(info.solver_residual, residual / np.linalg.norm(g), atol=1e-9)
    assert info.solver == "BFGS"
    assert 3 < info.solver_steps < 500
    assert info.reduction_ratio is None
    assert loss(w) < loss(written.w)


@pytest.mark.parametrize("name", slow_but(["kl"], ["kl", "hellinger"]))
def test_short_steps_tend_to_the_natural_gradients(x64, name):
    """λδ → −C⁻¹g with C = ∇²D at w; if λ is doubled, the error is halved."""
    case = small()
    rho, reference = DIVERGENCES[name]
    written = Written(case, reference)
    C = jax.hessian(written.divergence)(written.w)
    limit = -np.linalg.solve(C, jax.grad(written.loss)(written.w))
    curvatures = [cv.Divergence(rho), *([cv.ExactFisher()] if name == "kl" else [])]

    @jax.jit
    def matrices():
        here = case.objective.linearise(case.model, case.batch, trainable=case.trainable)
        return [curvature.operator(here).as_matrix() for curvature in curvatures]

    for matrix in matrices():
        np.testing.assert_allclose(matrix, C, atol=1e-9 * np.abs(C).max())

    def error(strength):
        opt = cv.ProximalPoint(case.objective, rho, strength, EXACT, max_steps=500)
        w, _ = step(opt, case)
        return np.linalg.norm(strength * (w - written.w) - limit) / np.linalg.norm(limit)

    errors = [error(factor * 50 * np.linalg.norm(limit)) for factor in (1, 2, 4)]
    assert errors[0] < 0.1
    np.testing.assert_allclose(errors[1:], np.asarray(errors[:-1]) / 2, rtol=0.1)


def test_dropout_is_the_same_in_loss_and_divergence(x64):
    """With other masks at w', D(w, w) would not be 0, and every short step would be rejected."""
    case = cases.dropped("categorical")
    descent = optx.GradientDescent(1e-4, rtol=1e-6, atol=1e-6)
    opt = cv.ProximalPoint(case.objective, strength=1e3, minimiser=descent, max_steps=20)
    w, info = step(opt, case, key=case.key)
    assert info.accepted
    assert 0 < info.metric_step < 1e-3
    assert np.linalg.norm(w - flat(case, case.model)) > 0


# --- rejected steps --------------------------------------------------------------------------


def rejected(opt, case, batch=None):
    model, _, info = opt.step(case.model, batch or case.batch, opt.init(case.model, case.trainable))
    np.testing.assert_array_equal(flat(case, model), flat(case, case.model))
    assert not info.accepted
    assert info.step_norm == info.metric_step == 0
    return info.result


def test_a_truncated_minimisation_is_accepted_and_nan_or_a_minimum_is_rejected(x64):
    case = small()
    x, y = case.batch
    opt = cv.ProximalPoint(case.objective, max_steps=3)
    _, info = step(opt, case)
    assert info.accepted
    assert info.solver_steps == 3
    assert 1e-6 < info.solver_residual < 1
    result = rejected(opt, case, (x.at[0, 0].set(jnp.nan), y))
    assert result == cv.RESULTS.nonfinite_loss
    still = dataclasses.replace(case, model=jax.tree.map(jnp.zeros_like, case.model))
    assert rejected(opt, still, (x, 0 * y + 0.5)) == cv.RESULTS.stationary


def test_the_step_of_a_minimiser_that_diverges_is_rejected(x64):
    case = small("gaussian")
    for learning_rate, reason in ((1e3, "no_proximal_reduction"), (1e306, "nonfinite_candidate")):
        astray = optx.GradientDescent(jnp.asarray(learning_rate), rtol=1e-6, atol=1e-6)
        opt = cv.ProximalPoint(case.objective, minimiser=astray, max_steps=3)
        assert rejected(opt, case) == getattr(cv.RESULTS, reason)
