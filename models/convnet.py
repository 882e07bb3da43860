import math
from collections.abc import Sequence
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._checks import integer, integers
from ._dense import Activation
from ._init import lecun


class ConvNet(eqx.Module):
    """Convolutions that each halve the image, then one linear layer.

    A stride of 2 replaces pooling. Strided convolutions are linear, whereas max pooling would add
    points where the network is not differentiable.

    **Arguments:**

    - `input_shape`: `(height, width)`, or `(channels, height, width)`.
    - `output_size`: how many numbers come out.
    - `channels`: the channels of every convolution, first to last.
    - `kernel_size`: the side of every kernel, in pixels.
    - `activation`: applied after every convolution.
    - `key`: for the initial weights.

    **Raises:** `ValueError` for an input that is not an image, or a size out of range.
    """

    convolutions: tuple[eqx.nn.Conv2d, ...]
    head: eqx.nn.Linear
    activation: Activation

    def __init__(
        self,
        input_shape: Sequence[int],
        output_size: int,
        *,
        channels: Sequence[int] = (16, 32),
        kernel_size: int = 3,
        activation: Activation = jax.nn.relu,
        key: PRNGKeyArray,
    ):
        if len(input_shape) not in (2, 3):
            raise ValueError(
                "`ConvNet(input_shape=...)` must be (height, width) or (channels, height, width), "
                f"got {tuple(input_shape)}. Use `MLP` for inputs that are not images."
            )
        integers("ConvNet(channels=...)", channels)
        integer("ConvNet(kernel_size=...)", kernel_size)
        *in_channels, height, width = input_shape
        all_channels = [math.prod(in_channels), *channels]
        head_key, *keys = jax.random.split(key, len(all_channels))
        self.convolutions = tuple(
            lecun(eqx.nn.Conv2d, fan_in, fan_out, kernel_size, stride=2, padding="SAME", key=key)
            for (fan_in, fan_out), key in zip(pairwise(all_channels), keys, strict=True)
        )
        shrink = 2 ** len(channels)
        pixels = math.ceil(height / shrink) * math.ceil(width / shrink)
        self.head = lecun(eqx.nn.Linear, all_channels[-1] * pixels, output_size, key=head_key)
        self.activation = activation

    def __call__(self, x: Float[Array, "*channels height width"]) -> Float[Array, " output_size"]:
        """The outputs for one image."""
        x = x.reshape(-1, *x.shape[-2:])
        for convolution in self.convolutions:
            x = self.activation(convolution(x))
        return self.head(jnp.ravel(x))
