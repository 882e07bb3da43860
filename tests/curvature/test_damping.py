"""The laws of the damping policies, at and around their thresholds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv

NAN, INF = float("nan"), float("inf")


def updated(policy, damping, ratio, accepted=True, dtype=jnp.float32):
    return policy.update(
        jnp.asarray(damping, dtype),
        reduction_ratio=jnp.asarray(ratio, dtype),
        accepted=jnp.asarray(accepted),
    )


@pytest.mark.parametrize(
    ("ratio", "factor"),
    [
        (-INF, 3 / 2),
        (-1.0, 3 / 2),
        (0.0, 3 / 2),
        (0.2499, 3 / 2),
        (0.25, 1.0),
        (0.5, 1.0),
        (0.75, 1.0),
        (0.7501, 2 / 3),
        (1.0, 2 / 3),
        (100.0, 2 / 3),
        (NAN, 1.0),
    ],
)
def test_levenberg_marquardt_follows_martens(ratio, factor):
    new = updated(cv.LevenbergMarquardt(1.0), 0.3, ratio)
    np.testing.assert_allclose(new, 0.3 * factor, rtol=1e-6)


@pytest.mark.parametrize("ratio", [-INF, -1.0, 0.5, 1.0, INF, NAN])
def test_a_rejected_step_raises_the_damping_whatever_the_ratio(ratio):
    np.testing.assert_allclose(
        updated(cv.LevenbergMarquardt(1.0), 0.3, ratio, accepted=False), 1.2, rtol=1e-6
    )


def test_levenberg_marquardt_stays_within_its_bounds():
    policy = cv.LevenbergMarquardt(1.0, minimum=0.9, maximum=1.2)
    assert updated(policy, 1.0, 1.0) == np.float32(0.9)
    assert updated(policy, 1.0, 0.0) == np.float32(1.2)
    assert updated(policy, 1.0, 0.0, accepted=False) == np.float32(1.2)
    assert updated(policy, 0.9, 1.0) == np.float32(0.9)


def test_levenberg_marquardt_comes_back_from_its_bounds_and_never_sticks():
    """Rejected a hundred times, then right a hundred times: λ is at its minimum again."""
    policy = cv.LevenbergMarquardt(1.0)
    damping = policy.init(jnp.float32)
    for _ in range(100):
        damping = updated(policy, damping, NAN, accepted=False)
    assert damping == np.float32(1e8)
    for _ in range(100):
        damping = updated(policy, damping, 1.0)
    assert damping == np.finfo(np.float32).eps
    assert updated(policy, damping, 0.0) > damping


def test_constant_damping_is_constant():
    policy = cv.ConstantDamping(0.3)
    for ratio in (-INF, 0.0, 1.0, NAN):
        for accepted in (True, False):
            assert updated(policy, 0.3, ratio, accepted) == np.float32(0.3)


@pytest.mark.parametrize(
    ("policy", "needed"), [(cv.ConstantDamping(1.0), False), (cv.LevenbergMarquardt(1.0), True)]
)
def test_the_reduction_ratio_is_asked_for_where_it_is_used(policy, needed):
    assert policy.needs_reduction_ratio() is needed


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    "policy",
    [
        lambda: cv.ConstantDamping(0.1),
        lambda: cv.ConstantDamping(1),
        lambda: cv.ConstantDamping(jnp.asarray(0.1, jnp.float32)),
        lambda: cv.LevenbergMarquardt(0.1),
        lambda: cv.LevenbergMarquardt(jnp.asarray(0.1, jnp.float64), 1e-3, np.float32(10)),
    ],
)
def test_the_damping_has_the_dtype_of_the_weights_and_keeps_it(x64, policy, dtype):
    """A weak or another type would cost a second trace after the first step."""
    policy = policy()
    damping = policy.init(dtype)
    new = updated(policy, damping, 0.0, dtype=dtype)
    for value in (damping, new):
        assert value.dtype == dtype
        assert value.shape == ()
        assert not value.weak_type


def test_policies_work_on_traced_values():
    """The checks of values do not stand in the way of `jit` and `vmap` over settings."""

    def lower(initial):
        return updated(cv.LevenbergMarquardt(initial), initial, 1.0)

    initial = jnp.asarray([0.3, 3.0])
    np.testing.assert_allclose(jax.jit(jax.vmap(lower))(initial), initial * 2 / 3, rtol=1e-6)


@pytest.mark.parametrize("value", [-1.0, -1e-30, NAN, INF, -INF, np.ones(3)])
def test_constant_damping_refuses(as_installed, value):
    with pytest.raises(ValueError, match=r"`ConstantDamping\(value=...\)` must be a finite number"):
        cv.ConstantDamping(value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"initial": 0.0}, r"\(initial=...\)` must be a positive finite number, got 0.0"),
        ({"initial": -1.0}, r"\(initial=...\)` must be a positive finite number, got -1.0"),
        ({"initial": NAN}, r"\(initial=...\)` must be a positive finite number, got nan"),
        ({"minimum": 0.0}, r"\(minimum=...\)` must be a positive finite number, got 0.0"),
        ({"maximum": INF}, r"\(maximum=...\)` must be a positive finite number, got inf"),
        ({"initial": 1.0, "minimum": 2.0}, "must satisfy minimum ≤ initial ≤ maximum"),
        ({"initial": 1.0, "maximum": 0.5}, "must satisfy minimum ≤ initial ≤ maximum"),
    ],
)
def test_levenberg_marquardt_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        cv.LevenbergMarquardt(**arguments)
