from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Scalar

from ._base import AbstractEnvironment

GRAVITY = 9.8  # m/s²
CART_MASS, POLE_MASS = 1.0, 0.1  # kg
HALF_LENGTH = 0.5  # of the pole, m
FORCE = 10.0  # N
TIME_STEP = 0.02  # s
POSITION_LIMIT = 2.4  # m
ANGLE_LIMIT = 12 * 2 * jnp.pi / 360  # rad
START = 0.05  # every number of the first state is uniform in ± this


class CartPole(AbstractEnvironment):
    """A pole to balance on a cart that is pushed left (action 0) or right (1): CartPole-v1.

    With x the position of the cart, θ the angle of the pole from upright, m and l its mass and
    half its length, M = m + the mass of the cart and F the force:

        a = (F + m l θ'² sin θ)/M
        θ'' = (g sin θ − a cos θ) / (l (4/3 − m cos²θ/M))
        x'' = a − m l θ'' cos θ/M

    integrated by Euler's method. A state is (x, x', θ, θ'); the reward is 1 per time step. An
    episode ends where |x| > 2.4 or |θ| > 12°, and after 500 time steps.

    Sources: A. Barto, R. Sutton and C. Anderson, *Neuronlike adaptive elements that can solve
    difficult learning control problems*, IEEE Transactions SMC-13 (1983), without friction;
    limits and constants of CartPole-v1 in OpenAI Gym (Brockman et al. 2016).
    """

    name: ClassVar[str] = "cartpole"
    observation_size: ClassVar[int] = 4
    num_actions: ClassVar[int] = 2
    horizon: ClassVar[int] = 500

    def reset(self, *, key: PRNGKeyArray) -> Float[Array, " 4"]:
        return jax.random.uniform(key, (4,), minval=-START, maxval=START)

    def step(
        self, state: Float[Array, " 4"], action: Int[Array, ""]
    ) -> tuple[Float[Array, " 4"], Scalar, Bool[Array, ""]]:
        _, velocity, angle, spin = state
        force = jnp.where(action == 1, FORCE, -FORCE).astype(state.dtype)
        mass, moment = CART_MASS + POLE_MASS, POLE_MASS * HALF_LENGTH
        sin, cos = jnp.sin(angle), jnp.cos(angle)
        a = (force + moment * spin**2 * sin) / mass
        angular = (GRAVITY * sin - a * cos) / (HALF_LENGTH * (4 / 3 - POLE_MASS * cos**2 / mass))
        linear = a - moment * angular * cos / mass
        following = state + TIME_STEP * jnp.stack([velocity, linear, spin, angular])
        ended = (jnp.abs(following[0]) > POSITION_LIMIT) | (jnp.abs(following[2]) > ANGLE_LIMIT)
        return following, jnp.ones((), state.dtype), ended
