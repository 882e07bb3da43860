"""The advantages of the actions of a rollout: their returns minus a baseline."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .rollout import Rollout

RIDGE = 1e-5
"""The ridge of the least-squares fit, per time step, as in the paper's code."""
AGE_UNIT = 100.0


def advantages(rollout: Rollout, discount: float) -> Float[Array, "T E"]:
    """A_t = G_t − b(s_t), then centred and scaled to a standard deviation of 1.

    G_t = r_t + γ G_{t+1} is the discounted return to go, 0 after the end of an episode. If an
    episode does not end within the rollout, the rest of its return is replaced by the baseline of
    its last state. The baseline b is linear in features of the observation and the age of the
    episode. It is fitted by least squares to the returns of the episodes that ended in this rollout
    (Duan, Chen, Houthooft, Schulman and Abbeel 2016, "Benchmarking deep reinforcement learning for
    continuous control", section 6.2; they use the returns of the previous rollout).
    """
    zeros = jnp.zeros_like(rollout.last[:, 0])
    uncut, finished = returns_to_go(rollout, zeros, discount)
    features = _features(rollout.observations, rollout.ages)
    weights = _fit(features, uncut, finished)
    of_last = _product(_features(rollout.last, rollout.last_age), weights)
    returns, _ = returns_to_go(rollout, of_last, discount)
    raw = returns - _product(features, weights)
    centred = raw - jnp.mean(raw)
    deviation = jnp.sqrt(jnp.mean(centred**2))
    # If all advantages are equal, the deviation is 0: 0/1 instead of 0/0.
    return centred / jnp.where(deviation > 0, deviation, 1)


def returns_to_go(
    rollout: Rollout, values: Float[Array, " E"], discount: float
) -> tuple[Float[Array, "T E"], Bool[Array, "T E"]]:
    """G_t, with `values` for the last states; and whether the episode ends within the rollout."""

    def back(carry: tuple[Array, Array], step: tuple[Array, Array]) -> tuple:
        following, finished = carry
        reward, ended = step
        found = reward + discount * jnp.where(ended, 0, following), finished | ended
        return found, found

    start = values, jnp.zeros(values.shape, bool)
    _, found = jax.lax.scan(back, start, (rollout.rewards, rollout.ended), reverse=True)
    return found


def _features(
    observations: Float[Array, "*batch observation"], ages: Int[Array, "*batch"]
) -> Float[Array, "*batch features"]:
    age = ages[..., None].astype(observations.dtype) / AGE_UNIT
    columns = [observations, observations**2, age, age**2, age**3, jnp.ones_like(age)]
    return jnp.concatenate(columns, axis=-1)


def _fit(
    features: Float[Array, "T E features"],
    returns: Float[Array, "T E"],
    counted: Bool[Array, "T E"],
) -> Float[Array, " features"]:
    columns = jnp.where(counted[..., None], features, 0).reshape(-1, features.shape[-1])
    ridge = RIDGE * columns.shape[0] * jnp.eye(columns.shape[1], dtype=columns.dtype)
    moments = _product(columns.T, columns)
    return jnp.linalg.solve(moments + ridge, _product(columns.T, returns.ravel()))


def _product(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """A @ b. By default a GPU rounds a and b to ten bits, too few for the normal equations."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
