"""The rules of the damping policies, tested at and around their thresholds."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
import pytest

import curvature as cv
from curvature.damping import Batch, Chosen, Step
from tests.curvature.written import Line

NAN, INF = float("nan"), float("inf")


def weights(dtype=jnp.float32):
    return {"w": jnp.ones(2, dtype)}


def begun(policy, state, dtype=jnp.float32, scale=NAN, step=1):
    """The result of `begin` on a batch for which gᵀCg/gᵀg is `scale`."""
    w = weights(dtype)
    batch = Batch(
        jnp.asarray(step, jnp.int32),
        w,
        jnp.ones((), dtype),
        lambda w: jnp.sum(w["w"]),
        lambda: jnp.asarray(scale, dtype),
    )
    return policy.begin(state, batch)


def updated(policy, chosen, ratio, accepted=True):
    """The state after a step with this reduction ratio."""
    dtype = chosen.damping.dtype
    one = jnp.ones((), dtype)
    step = Step(weights(dtype), one, one, one, jnp.asarray(ratio, dtype), jnp.asarray(accepted))
    return policy.update(chosen, step)


def after(policy, damping, ratio, accepted=True):
    """The new λ after a step with λ = `damping` and this reduction ratio."""
    state = eqx.tree_at(lambda s: s.damping, policy.init(weights()), jnp.float32(damping))
    return updated(policy, begun(policy, state), ratio, accepted).damping


RATIOS = {
    **dict.fromkeys((-INF, -1.0, 0.0, 0.2499), 3 / 2),
    **dict.fromkeys((0.25, 0.5, 0.75), 1.0),
    **dict.fromkeys((0.7501, 1.0, 100.0), 2 / 3),
}


def test_levenberg_marquardt_follows_martens():
    """A rejected step raises λ for every ratio."""
    policy = cv.LevenbergMarquardt(1.0)
    for ratio, factor in [*RATIOS.items(), (NAN, 1.0)]:
        np.testing.assert_allclose(after(policy, 0.3, ratio), 0.3 * factor, rtol=1e-6)
    for ratio in (-INF, -1.0, 0.5, 1.0, INF, NAN):
        np.testing.assert_allclose(after(policy, 0.3, ratio, accepted=False), 1.2, rtol=1e-6)


def test_levenberg_marquardt_stays_within_its_bounds():
    policy = cv.LevenbergMarquardt(1.0, minimum=0.9, maximum=1.2)
    for (damping, *step), bound in (
        ((1.0, 1.0), 0.9),
        ((0.9, 1.0), 0.9),
        ((1.0, 0.0), 1.2),
        ((1.0, 0.0, False), 1.2),
    ):
        assert after(policy, damping, *step) == np.float32(bound)


def repeated(policy, state, times, ratio, accepted=True):
    """The state after `times` steps with the same result."""
    one = lambda _, state: updated(policy, begun(policy, state), ratio, accepted)  # noqa: E731
    return jax.jit(lambda state: jax.lax.fori_loop(0, times, one, state))(state)


def test_levenberg_marquardt_comes_back_from_its_bounds_and_never_sticks():
    """After 100 rejected steps and 100 steps with ρ = 1, λ is at its minimum, and can rise."""
    policy = cv.LevenbergMarquardt(1.0)
    state = repeated(policy, policy.init(weights()), 100, NAN, accepted=False)
    assert state.damping == np.float32(1e8)
    state = repeated(policy, state, 100, 1.0)
    assert state.damping == np.finfo(np.float32).eps
    assert updated(policy, begun(policy, state), 0.0).damping > state.damping


def test_constant_damping_is_constant():
    policy = cv.ConstantDamping(0.3)
    state = policy.init(weights())
    for ratio in (-INF, 0.0, 1.0, NAN):
        for accepted in (True, False):
            state = updated(policy, begun(policy, state), ratio, accepted)
            assert begun(policy, state).damping == np.float32(0.3)


def test_the_reduction_ratio_is_asked_for_where_it_is_used():
    for policy, needed in [
        (cv.ConstantDamping(1.0), False),
        (cv.ScheduledDamping(lambda step: 1.0), False),
        (cv.LevenbergMarquardt(1.0), True),
        (cv.LevenbergMarquardt(1.0, next_batch=True), False),
    ]:
        assert policy.needs_reduction_ratio() is needed


def test_a_damping_that_may_be_zero_is_not_called_positive():
    assert cv.LevenbergMarquardt().is_positive()
    assert cv.ConstantDamping(0.1).is_positive()
    assert not cv.ConstantDamping(0.0).is_positive()
    assert not jax.eval_shape(lambda v: cv.ConstantDamping(v), 0.1).is_positive()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.bfloat16])
def test_the_damping_has_the_precision_of_the_weights_and_keeps_it(x64, dtype):
    """A weak type or another dtype would cause a second trace after the first step."""
    wanted = jnp.float64 if dtype == jnp.float64 else jnp.float32
    for policy in (
        cv.ConstantDamping(0.1),
        cv.ConstantDamping(1),
        cv.ConstantDamping(jnp.asarray(0.1, jnp.float32)),
        cv.ScheduledDamping(lambda step: 0.1),
        cv.LevenbergMarquardt(0.1),
        cv.LevenbergMarquardt(jnp.asarray(0.1, jnp.float64), 1e-3, np.float32(10)),
    ):
        state = policy.init(weights(dtype))
        chosen = begun(policy, state, dtype)
        for value in (chosen.damping, *jax.tree.leaves(updated(policy, chosen, 0.0))):
            assert (value.dtype, value.shape, value.weak_type) == (wanted, (), False)


def test_policies_work_on_traced_values():
    """The checks of values allow `jit` and `vmap` over settings."""
    initial = jnp.asarray([0.3, 3.0])
    lower = jax.jit(jax.vmap(lambda initial: after(cv.LevenbergMarquardt(initial), 0.3, 1.0)))
    np.testing.assert_allclose(lower(initial), [0.2, 0.2], rtol=1e-6)


# --- changed settings and other policies -----------------------------------------------------


def test_a_changed_setting_acts_at_once():
    """λ may change with a new optimiser or by `eqx.tree_at`; it is no constant of the program."""
    model, batch = Line(jnp.ones(2)), (jnp.eye(2), jnp.zeros((2, 1)))

    def optimiser(damping):
        return cv.NaturalGradient(cv.Supervised(cv.Gaussian()), cv.Identity(), damping=damping)

    one, hundred = optimiser(1.0), optimiser(100.0)
    state = one.init(model)
    changed = eqx.tree_at(lambda opt: opt.damping.value, one, jnp.asarray(100.0))
    for opt, damping in ((one, 1), (hundred, 100), (changed, 100)):
        new, _, info = opt.step(model, batch, state)
        assert info.damping == damping
        np.testing.assert_allclose(new.w, 1 - 0.5 / (1 + damping), rtol=1e-6)


def test_changed_bounds_act_at_once():
    state = cv.LevenbergMarquardt(0.1).init(weights())
    higher, lower = cv.LevenbergMarquardt(1.0, 0.5), cv.LevenbergMarquardt(0.01, maximum=0.05)
    assert begun(higher, state).damping == np.float32(0.5)
    assert begun(lower, state).damping == np.float32(0.05)
    bounded = cv.LevenbergMarquardt(0.1, minimum=0.09)
    assert updated(bounded, begun(bounded, state), 1.0).damping == np.float32(0.09)


class Halving(cv.AbstractDamping):
    """A user's own policy, whose state is a tree."""

    def init(self, params):
        return {"next": jnp.ones(()), "steps": jnp.zeros((), jnp.int32)}

    def is_positive(self):
        return True

    def needs_reduction_ratio(self):
        return False

    def begin(self, state, batch):
        return Chosen(state["next"], state)

    def update(self, chosen, step):
        assert step.reduction_ratio is None
        return {"next": chosen.damping / 2, "steps": chosen.state["steps"] + 1}


def test_a_policy_of_ones_own_has_a_state_of_its_own():
    model, batch = Line(jnp.ones(2)), (jnp.eye(2), jnp.zeros((2, 1)))
    objective = cv.Supervised(cv.Gaussian())
    whole = optx.LearningRate(1.0)  # this search needs no reduction ratio
    opt = cv.NaturalGradient(objective, solver=lx.Cholesky(), damping=Halving(), search=whole)
    state = opt.init(model)
    for k in range(3):
        model, state, info = opt.step(model, batch, state)
        assert info.damping == 0.5**k
    assert state.damping["steps"] == 3


# --- `whole`, `thresholds` and `factors` -----------------------------------------------------


def test_with_whole_the_ratio_of_the_first_step_size_counts():
    """The ratio of the last step size is 0.7 in all cases; only that of the first one counts."""
    policy = cv.LevenbergMarquardt(1.0, whole=True, thresholds=(0.1, 0.5), factors=(3.0, 0.5))
    state = eqx.tree_at(lambda s: s.damping, policy.init(weights()), jnp.float32(0.3))
    one, accepted = jnp.ones(()), jnp.asarray(True)
    for first, factor in {-INF: 3, 0.09: 3, 0.1: 1, 0.5: 1, 0.51: 0.5, 7.0: 0.5}.items():
        step = Step(weights(), one, one, one, jnp.asarray(0.7), accepted, jnp.float32(first))
        found = policy.update(begun(policy, state), step).damping
        np.testing.assert_allclose(found, 0.3 * factor, rtol=1e-6)


class Quartic(cv.AbstractLoss):
    """The loss z⁴ + z²/100; at z = 1 its second derivative is far above that of ½z²."""

    def nll(self, z, y):
        del y
        return jnp.sum(z**4 + z**2 / 100)


def test_the_damping_gets_the_ratio_of_the_first_step_size():
    """C is that of the squared distance, so the whole step is too long and the search halves it."""
    model, batch = Line(jnp.ones(2)), (jnp.eye(2), jnp.zeros((2, 1)))
    found = []
    for whole in (False, True):
        policy = cv.LevenbergMarquardt(1e-4, 1e-6, whole=whole)
        objective = cv.Supervised(Quartic())
        opt = cv.NaturalGradient(objective, cv.Divergence(_flat), lx.Cholesky(), damping=policy)
        _, state, info = opt.step(model, batch, opt.init(model))
        assert info.accepted
        assert info.reduction_ratio > 0.25
        found.append(float(state.damping.damping))
    assert found[0] <= np.float32(1e-4)
    np.testing.assert_allclose(found[1], 1.5e-4, rtol=1e-5)


def _flat(z, z2):
    return jnp.sum((z - z2) ** 2) / 2


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"thresholds": (0.1,)}, r"thresholds=...\)` must be two numbers"),
        ({"factors": 2.0}, r"factors=...\)` must be two numbers"),
        ({"factors": (2.0, 0.0)}, r"factors=...\)` must be a positive finite number, got 0.0"),
        ({"whole": True, "next_batch": True}, "Set only one of them"),
    ],
)
def test_wrong_thresholds_and_factors_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        cv.LevenbergMarquardt(**settings)
