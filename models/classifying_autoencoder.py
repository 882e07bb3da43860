from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._dense import Activation
from ._init import lecun
from .autoencoder import Autoencoder


class ClassifyingAutoencoder(eqx.Module):
    """An [`Autoencoder`][] with a linear classifier on its code: two outputs, shared weights.

    For an objective of two terms, whose `outputs` are [`reconstruct`][] and [`classify`][].

    **Arguments:** as [`Autoencoder`][], but `output_size` is the number of classes.
    """

    autoencoder: Autoencoder
    head: eqx.nn.Linear

    def __init__(
        self,
        input_shape: Sequence[int],
        output_size: int,
        *,
        sizes: Sequence[int] = (256, 64, 16),
        activation: Activation = jnp.tanh,
        key: PRNGKeyArray,
    ):
        autoencoder_key, head_key = jax.random.split(key)
        self.autoencoder = Autoencoder(
            input_shape, output_size, sizes=sizes, activation=activation, key=autoencoder_key
        )
        self.head = lecun(eqx.nn.Linear, sizes[-1], output_size, key=head_key)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " inputs"]:
        """The reconstruction of one example, as [`Autoencoder`][] gives it."""
        return self.autoencoder(x)

    def classify(self, x: Float[Array, "..."]) -> Float[Array, " output_size"]:
        """The logits of one example's classes."""
        return self.head(self.autoencoder.encode(x))


def reconstruct(model: ClassifyingAutoencoder, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The reconstruction in the shape of the input, as the `outputs` of a term with target `x`."""
    return model(x).reshape(x.shape)


def classify(model: ClassifyingAutoencoder, x: Float[Array, "..."]) -> Float[Array, " output_size"]:
    """The logits of the classes, as the `outputs` of a term."""
    return model.classify(x)
