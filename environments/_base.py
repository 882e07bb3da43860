import abc
from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Scalar


class AbstractEnvironment(eqx.Module):
    """A Markov decision process with finitely many actions; its state is its observation.

    The methods are traceable and treat one episode; use `jax.vmap` for many. A concrete class
    defines its name, the size of its observation, the number of actions, and the horizon: the
    number of time steps after which an episode ends in any case.
    """

    name: ClassVar[str]
    observation_size: ClassVar[int]
    num_actions: ClassVar[int]
    horizon: ClassVar[int]

    @abc.abstractmethod
    def reset(self, *, key: PRNGKeyArray) -> Float[Array, " observation"]:
        """The first state of an episode."""

    @abc.abstractmethod
    def step(
        self, state: Float[Array, " observation"], action: Int[Array, ""]
    ) -> tuple[Float[Array, " observation"], Scalar, Bool[Array, ""]]:
        """The next state, the reward, and whether the episode has ended there."""
