"""Mean returns before each update; one compiled program runs many seeds and settings."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import models
from environments import CartPole, OnPolicy
from running.settings import MODEL_STREAM
from training.sources import ROLLOUT_STREAM

from .methods import Method

TARGET = 475.0
SOURCE = OnPolicy(CartPole(), time_steps=5000, environments=10, discount=0.99)


def curves(
    method: Method, settings: Sequence[Sequence[float]], seeds: Sequence[int], updates: int
) -> Float[np.ndarray, "settings seeds updates"]:
    """The mean return of the policy before every update, over its first ten episodes.

    The initial weights and the keys of a seed are those of
    `python train.py experiment=cartpole seed=...`.
    """

    def one(seed: Int[Array, ""], setting: Float[Array, " numbers"]) -> Float[Array, " updates"]:
        base, optimiser = jax.random.key(seed), method.make(*setting)
        model = models.MLP(
            SOURCE.input_shape,
            SOURCE.output_size,
            width=32,
            depth=2,
            activation=jnp.tanh,
            key=jax.random.fold_in(base, MODEL_STREAM),
        )
        start, static = eqx.partition((model, optimiser.init(model)), eqx.is_array)

        def update(carry: tuple, step: Int[Array, ""]) -> tuple[tuple, Array]:
            model, state = eqx.combine(carry, static)
            key = jax.random.fold_in(base, step)
            draw_key = jax.random.fold_in(key, ROLLOUT_STREAM)
            batch, numbers = SOURCE.batch(model, step=step, key=draw_key)
            model, state, _ = optimiser.step(model, batch, state, key=key)
            return eqx.filter((model, state), eqx.is_array), numbers["mean_return"]

        return jax.lax.scan(update, start, jnp.arange(updates))[1]

    over_seeds = jax.vmap(one, in_axes=(0, None))
    both = jax.jit(jax.vmap(over_seeds, in_axes=(None, 0)))
    return np.asarray(both(jnp.asarray(seeds, jnp.uint32), jnp.asarray(settings)))


def reached(returns: Float[np.ndarray, " updates"]) -> int | None:
    """The environment steps until the return is at least 475 for the first time, or None."""
    found = np.flatnonzero(returns >= TARGET)
    # The index is the number of updates before this batch. The steps of the batch itself are not
    # counted: they measure the policy, but no update has used them yet.
    return int(found[0]) * SOURCE.time_steps if len(found) else None


def best(found: Float[np.ndarray, "settings seeds updates"]) -> int:
    """The setting whose mean over the seeds reaches 475 first; if none, the highest at the end."""
    means = found.mean(axis=1)
    steps = [reached(mean) for mean in means]
    keys = [
        (np.inf if count is None else count, -mean[-5:].mean())
        for count, mean in zip(steps, means, strict=True)
    ]
    return min(range(len(keys)), key=keys.__getitem__)
