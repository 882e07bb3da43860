import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._checks import integer, probability
from ._dense import Activation, Dense


class MLP(eqx.Module):
    """A multi-layer perceptron on the ravelled input.

    **Arguments:**

    - `input_shape`: the shape of one example; any.
    - `output_size`: how many numbers come out.
    - `width`: the size of every hidden layer, or a list with one size for each.
    - `depth`: how many hidden layers; 0 is a linear model.
    - `activation`: applied after every hidden layer.
    - `dropout`: the probability with which a hidden unit is dropped in training.
    - `key`: for the initial weights.

    **Raises:** `ValueError` for a size or a probability out of range, or a list of another length
    than `depth`.
    """

    layers: Dense

    def __init__(
        self,
        input_shape: Sequence[int],
        output_size: int,
        *,
        width: int | Sequence[int] = 64,
        depth: int = 2,
        activation: Activation = jax.nn.relu,
        dropout: float = 0.0,
        key: PRNGKeyArray,
    ):
        integer("MLP(depth=...)", depth, least=0)
        hidden = [*width] if isinstance(width, Sequence) else [width] * depth
        for size in hidden or [width]:
            integer("MLP(width=...)", size)
        if len(hidden) != depth:
            raise ValueError(
                f"`MLP(width=...)` has {len(hidden)} sizes, but depth is {depth}. Give one size "
                f"per hidden layer, or set depth={len(hidden)}."
            )
        probability("MLP(dropout=...)", dropout)
        sizes = [math.prod(input_shape), *hidden, output_size]
        self.layers = Dense(sizes, activation=activation, dropout=dropout, key=key)

    def __call__(
        self, x: Float[Array, "..."], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " output_size"]:
        """The outputs for one example; `key` is needed for dropout in training, and only then."""
        return self.layers(jnp.ravel(x), key=key)
