"""Rollouts, returns and advantages agree with plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from environments import CartPole
from environments.advantages import advantages, returns_to_go
from environments.rollout import first_returns, roll_out

T, E, GAMMA = 120, 3, 0.9


def policy(observation):
    """A policy that tends to push to the side to which the pole falls; better than random."""
    return jnp.stack([-8 * observation[2], 8 * observation[2]])


@pytest.fixture(scope="module")
def rollout():
    key = jax.random.key(1)
    return jax.jit(lambda key: roll_out(CartPole(), policy, time_steps=T, environments=E, key=key))(
        key
    )


def test_every_time_step_follows_from_the_one_before(rollout):
    following, _, _ = jax.vmap(jax.vmap(CartPole().step))(rollout.observations, rollout.actions)
    later = jnp.concatenate([rollout.observations[1:], rollout.last[None]])
    ages = np.concatenate([rollout.ages[1:], rollout.last_age[None]])
    ended = np.asarray(rollout.ended)
    assert 3 < ended.sum() < T
    np.testing.assert_allclose(later[~ended], following[~ended], rtol=1e-5, atol=1e-6)
    assert np.abs(later[ended]).max() <= 0.05
    np.testing.assert_array_equal(ages, np.where(ended, 0, rollout.ages + 1))
    assert not rollout.ages[0].any()


def test_actions_are_drawn_from_the_policy(rollout):
    p = np.asarray(jax.nn.softmax(jax.vmap(jax.vmap(policy))(rollout.observations)))[..., 1]
    error = np.sqrt(np.sum(p * (1 - p)))
    assert abs(np.asarray(rollout.actions).sum() - p.sum()) < 4 * error


class Endless(CartPole, strict=False):
    """A cart-pole that never falls."""

    def step(self, state, action):
        del action
        return state, jnp.ones(()), jnp.asarray(False)


def test_an_episode_ends_at_the_horizon():
    found = roll_out(Endless(), policy, time_steps=501, environments=2, key=jax.random.key(0))
    np.testing.assert_array_equal(found.ended.sum(axis=1), np.arange(501) % 500 // 499 * 2)
    np.testing.assert_array_equal(first_returns(found), 500)


def test_the_first_return_is_that_of_the_first_episode(rollout):
    for e in range(E):
        ends = np.flatnonzero(rollout.ended[:, e])
        assert float(first_returns(rollout)[e]) == ends[0] + 1
    unfinished = jax.tree.map(lambda x: x[:2], rollout)
    assert np.isnan(first_returns(unfinished)).all()


def discounted(rollout, values):
    returns, ahead = np.zeros((T, E)), np.zeros((T, E), bool)
    for e in range(E):
        following, seen = float(values[e]), False
        for t in reversed(range(T)):
            if rollout.ended[t, e]:
                following, seen = 0.0, True
            following = float(rollout.rewards[t, e]) + GAMMA * following
            returns[t, e], ahead[t, e] = following, seen
    return returns, ahead


def test_returns_to_go_are_discounted_sums(rollout):
    values = jnp.asarray([2.0, -1.0, 5.0])
    found = returns_to_go(rollout, values, GAMMA)
    expected = discounted(rollout, values)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_array_equal(found[1], expected[1])


def features(observations, ages):
    age = np.asarray(ages, float)[..., None] / 100
    o = np.asarray(observations, float)
    return np.concatenate([o, o**2, age, age**2, age**3, np.ones_like(age)], axis=-1)


def test_advantages_are_returns_over_a_least_squares_baseline(rollout, x64):
    rollout = jax.tree.map(
        lambda x: x.astype(float) if jnp.issubdtype(x.dtype, jnp.floating) else x, rollout
    )
    returns, ahead = discounted(rollout, np.zeros(E))
    columns = features(rollout.observations, rollout.ages)
    ridge = np.sqrt(1e-5 * T * E) * np.eye(columns.shape[-1])
    weights = np.linalg.lstsq(
        np.concatenate([columns[ahead], ridge]),
        np.concatenate([returns[ahead], np.zeros(len(ridge))]),
    )[0]
    returns, _ = discounted(rollout, features(rollout.last, rollout.last_age) @ weights)
    expected = returns - columns @ weights
    expected = (expected - expected.mean()) / expected.std()
    found = jax.jit(advantages)(rollout, GAMMA)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_without_a_finished_episode_advantages_are_finite():
    @jax.jit
    def found(key):
        short = roll_out(CartPole(), policy, time_steps=2, environments=2, key=key)
        return advantages(short, GAMMA)

    assert np.isfinite(found(jax.random.key(0))).all()
