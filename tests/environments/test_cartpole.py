"""The cart-pole obeys its equations of motion, solved as a linear system in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from environments import CartPole

ENVIRONMENT = CartPole()


def accelerations(angle, spin, force):
    """x'' and θ'' from the balance of forces along the track and of torques about the pivot.

    A pole of mass m and length 2h has the moment of inertia 4/3 m h² about its end.
    """
    g, cart, m, h = 9.8, 1.0, 0.1, 0.5
    coupling = m * h * np.cos(angle)
    matrix = np.array([[cart + m, coupling], [coupling, 4 / 3 * m * h**2]])
    forces = [force + m * h * spin**2 * np.sin(angle), m * g * h * np.sin(angle)]
    return np.linalg.solve(matrix, forces)


def euler(state, action):
    x, velocity, angle, spin = state
    linear, angular = accelerations(angle, spin, 10.0 if action else -10.0)
    rates = np.array([velocity, linear, spin, angular])
    return np.array([x, velocity, angle, spin]) + 0.02 * rates


@pytest.mark.parametrize("seed", range(5))
def test_a_step_obeys_the_equations(x64, seed):
    rng = np.random.default_rng(seed)
    state = rng.uniform(-1, 1, 4) * [2.4, 3.0, 0.2, 3.0]
    for action in (0, 1):
        following, reward, _ = ENVIRONMENT.step(jnp.asarray(state), jnp.asarray(action))
        np.testing.assert_allclose(following, euler(state, action), rtol=1e-12)
        assert reward == 1


def test_a_trajectory_obeys_the_equations(x64):
    expected = np.array([0.01, -0.02, 0.03, 0.04])
    state, step = jnp.asarray(expected), jax.jit(ENVIRONMENT.step)
    for action in np.random.default_rng(0).integers(2, size=100):
        state, _, _ = step(state, jnp.asarray(action))
        expected = euler(expected, action)
    # The motion is unstable, so differences of rounding grow.
    np.testing.assert_allclose(state, expected, rtol=1e-8)


def test_from_rest_the_two_actions_give_mirrored_motions(x64):
    """The force to the right moves the cart to the right, and the pole to the left."""
    rest = jnp.zeros(4)
    right, _, _ = ENVIRONMENT.step(rest, jnp.asarray(1))
    left, _, _ = ENVIRONMENT.step(rest, jnp.asarray(0))
    np.testing.assert_allclose(left, -right)
    assert right[1] > 0 > right[3]


@pytest.mark.parametrize(
    ("state", "ended"),
    [
        ([2.39, 0.0, 0.0, 0.0], False),
        ([2.39, 1.0, 0.0, 0.0], True),
        ([-2.39, -1.0, 0.0, 0.0], True),
        ([0.0, 0.0, np.radians(11.9), 0.0], False),
        ([0.0, 0.0, np.radians(11.9), 1.0], True),
        ([0.0, 0.0, np.radians(-11.9), -1.0], True),
    ],
)
def test_an_episode_ends_beyond_the_limits(x64, state, ended):
    for action in (0, 1):
        _, _, found = ENVIRONMENT.step(jnp.asarray(state), jnp.asarray(action))
        assert bool(found) == ended


def test_an_episode_begins_near_upright():
    states = jax.vmap(lambda key: ENVIRONMENT.reset(key=key))(
        jax.random.split(jax.random.key(0), 2000)
    )
    assert states.shape == (2000, 4)
    assert jnp.abs(states).max() <= 0.05
    np.testing.assert_allclose(states.mean(axis=0), 0, atol=5 * 0.05 / np.sqrt(3 * 2000))
    np.testing.assert_allclose(states.std(axis=0), 0.05 / np.sqrt(3), rtol=0.05)
