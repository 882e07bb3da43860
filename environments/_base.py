import abc
from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Scalar


class AbstractEnvironment(eqx.Module):
    """A Markov decision process with finitely many actions; its state is its observation.

    Everything is traceable and for one episode: `jax.vmap` runs many. A concrete class says what
    it is called, how many numbers its observation has and how many actions there are, and after
    how many time steps, the horizon, an episode ends in any case.
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
