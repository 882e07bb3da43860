"""The fully connected layers that several models use."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from ._init import lecun
from ._keys import split

Activation = Callable[[Array], Array]


class Dense(eqx.Module):
    """Linear layers of the given sizes; between two layers the activation, then dropout."""

    layers: tuple[eqx.nn.Linear, ...]
    activation: Activation
    dropout: eqx.nn.Dropout

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: Activation,
        dropout: float = 0.0,
        key: PRNGKeyArray,
    ):
        keys = jax.random.split(key, len(sizes) - 1)
        self.layers = tuple(
            lecun(eqx.nn.Linear, fan_in, fan_out, key=key)
            for (fan_in, fan_out), key in zip(pairwise(sizes), keys, strict=True)
        )
        self.activation = activation
        self.dropout = eqx.nn.Dropout(dropout)

    def __call__(
        self, x: Float[Array, " fan_in"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " fan_out"]:
        *hidden, last = self.layers
        for layer, dropout_key in zip(hidden, split(key, len(hidden)), strict=True):
            x = self.dropout(self.activation(layer(x)), key=dropout_key)
        return last(x)
