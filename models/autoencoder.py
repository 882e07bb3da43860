import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._checks import integers
from ._dense import Activation, Dense


class Autoencoder(eqx.Module):
    """A deep autoencoder: an encoder down to a linear code, and the same sizes back up.

    The layers of the code and of the reconstruction are linear, all other layers have an
    activation, as in Hinton & Salakhutdinov, *Reducing the dimensionality of data with neural
    networks*, 2006.

    **Arguments:**

    - `input_shape`: the shape of one example; any.
    - `output_size`: not used; there are as many outputs as inputs.
    - `sizes`: the layers of the encoder, the code last; the decoder mirrors them.
    - `activation`: applied after every layer but the code and the reconstruction.
    - `key`: for the initial weights.

    **Raises:** `ValueError` for a size out of range.
    """

    encoder: Dense
    decoder: Dense

    def __init__(
        self,
        input_shape: Sequence[int],
        output_size: int,
        *,
        sizes: Sequence[int] = (256, 64, 16),
        activation: Activation = jnp.tanh,
        key: PRNGKeyArray,
    ):
        del output_size
        integers("Autoencoder(sizes=...)", sizes)
        encoder_key, decoder_key = jax.random.split(key)
        down = [math.prod(input_shape), *sizes]
        self.encoder = Dense(down, activation=activation, key=encoder_key)
        self.decoder = Dense(down[::-1], activation=activation, key=decoder_key)

    def encode(self, x: Float[Array, "..."]) -> Float[Array, " code"]:
        """The code of one example."""
        return self.encoder(jnp.ravel(x))

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " inputs"]:
        """The reconstruction of one example, ravelled: one logit (or mean) per input number."""
        return self.decoder(self.encode(x))
