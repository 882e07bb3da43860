"""Episodes of a policy, in parallel environments."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ._base import AbstractEnvironment

Policy = Callable[[Float[Array, " observation"]], Float[Array, " actions"]]
"""A function from an observation to the logits of the actions."""


class Rollout(eqx.Module):
    """T time steps of E environments, each of which begins anew when its episode ends.

    - `observations`, `actions`, `rewards`: of every time step.
    - `ages`: the number of earlier time steps in the same episode.
    - `ended`: whether the episode ended with that time step.
    - `last`, `last_age`: the observation and the age after the last time step.
    """

    observations: Float[Array, "T E observation"]
    actions: Int[Array, "T E"]
    rewards: Float[Array, "T E"]
    ages: Int[Array, "T E"]
    ended: Bool[Array, "T E"]
    last: Float[Array, "E observation"]
    last_age: Int[Array, " E"]


def roll_out(
    environment: AbstractEnvironment,
    policy: Policy,
    *,
    time_steps: int,
    environments: int,
    key: PRNGKeyArray,
) -> Rollout:
    """`time_steps` steps in each of the `environments`, with actions drawn from the policy."""

    def one(state: Array, age: Array, key: PRNGKeyArray) -> Any:
        action_key, reset_key = jax.random.split(key)
        action = jax.random.categorical(action_key, policy(state))
        following, reward, ended = environment.step(state, action)
        ended = ended | (age + 1 >= environment.horizon)
        fresh = environment.reset(key=reset_key)
        carry = jnp.where(ended, fresh, following), jnp.where(ended, 0, age + 1)
        return carry, (state, action, reward, age, ended)

    def all_of_them(carry: tuple[Array, Array], key: PRNGKeyArray) -> Any:
        states, ages = carry
        return jax.vmap(one)(states, ages, jax.random.split(key, environments))

    reset_key, step_key = jax.random.split(key)
    states = jax.vmap(lambda key: environment.reset(key=key))(
        jax.random.split(reset_key, environments)
    )
    ages = jnp.zeros(environments, jnp.int32)
    keys = jax.random.split(step_key, time_steps)
    (last, last_age), steps = jax.lax.scan(all_of_them, (states, ages), keys)
    observations, actions, rewards, ages, ended = steps
    return Rollout(observations, actions, rewards, ages, ended, last, last_age)


def first_returns(rollout: Rollout) -> Float[Array, " E"]:
    """The undiscounted return of each environment's first episode; NaN if it did not end.

    Later episodes are not used, because they would bias the mean: of these, only short ones end
    within the fixed time of a rollout. The first episodes are unbiased if all of them end.
    """
    ended = rollout.ended.astype(jnp.int32)
    ends = jnp.cumsum(ended, axis=0)
    within = (ends - ended) == 0  # no episode has ended before
    total = jnp.sum(jnp.where(within, rollout.rewards, 0), axis=0)
    return jnp.where(ends[-1] > 0, total, jnp.nan)
