from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, Scalar

from ._base import AbstractEnvironment
from .advantages import advantages
from .rollout import Policy, first_returns, roll_out

TEST_EPISODES = 100
TEST_KEY = 0

Batch = tuple[Float[Array, "n observation"], tuple[Int[Array, " n"], Float[Array, " n"]]]


class OnPolicy(eqx.Module):
    """The batches that a policy generates in an environment, in place of a dataset.

    A batch is `(observations, (actions, advantages))`, one example per time step, as
    `curvature.PolicyGradient` takes it; see `advantages`. An epoch has one batch.

    **Arguments:**

    - `environment`: an `AbstractEnvironment`.
    - `time_steps`: the number of examples in a batch.
    - `environments`: the number of environments that run in parallel; every batch resets them.
    - `discount`: γ, of the returns to go.
    """

    environment: AbstractEnvironment
    time_steps: int = eqx.field(static=True)
    environments: int = eqx.field(static=True)
    discount: float = eqx.field(static=True)

    def __check_init__(self):
        if not self.time_steps:
            raise ValueError(
                "`OnPolicy(time_steps=...)` must be a positive integer, got "
                f"{self.time_steps}. On the command line, it is `batch_size`."
            )
        if self.environments < 1 or self.time_steps % self.environments:
            raise ValueError(
                "`OnPolicy(environments=...)` must be positive and divide `time_steps`, got "
                f"{self.environments} environments and {self.time_steps} time steps. On the "
                "command line, `batch_size` is the number of time steps."
            )
        if not 0 <= self.discount <= 1:
            raise ValueError(f"`OnPolicy(discount=...)` must lie in [0, 1], got {self.discount}.")

    @property
    def name(self) -> str:
        return self.environment.name

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.environment.observation_size,)

    @property
    def output_size(self) -> int:
        return self.environment.num_actions

    @property
    def num_train(self) -> int:
        return self.time_steps

    def batch(
        self, policy: Policy, *, step: Int[Array, ""], key: PRNGKeyArray
    ) -> tuple[Batch, dict[str, Scalar]]:
        """The batch of step number `step`, from 0, and numbers to report.

        `mean_return` is the mean undiscounted return of the policy before the step, over the first
        episode of every environment; `environment_steps` counts all time steps so far.
        """
        rollout = roll_out(
            self.environment,
            policy,
            time_steps=self.time_steps // self.environments,
            environments=self.environments,
            key=key,
        )
        examples = (rollout.observations, (rollout.actions, advantages(rollout, self.discount)))
        batch: Any = jax.tree.map(lambda x: x.reshape(self.time_steps, *x.shape[2:]), examples)
        return batch, {
            "mean_return": jnp.nanmean(first_returns(rollout)),
            "environment_steps": (step + 1) * self.time_steps,
        }

    @eqx.filter_jit
    def mean_return(self, policy: Policy) -> Scalar:
        """The mean undiscounted return of 100 episodes; every policy gets the same random key."""
        rollout = roll_out(
            self.environment,
            policy,
            time_steps=self.environment.horizon,
            environments=TEST_EPISODES,
            key=jax.random.key(TEST_KEY),
        )
        return jnp.mean(first_returns(rollout))
