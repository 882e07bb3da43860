from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

Layer = TypeVar("Layer", eqx.nn.Linear, eqx.nn.Conv2d)


def lecun(layer: type[Layer], *args: Any, key: PRNGKeyArray, **kwargs: Any) -> Layer:
    """`layer(*args, **kwargs)` with weights ∼ N(0, 1/fan_in), and no bias (LeCun 1998, §4.6).

    The variance of a signal is then the same in all layers. With Equinox's own U(±1/√fan_in) every
    layer reduces it to a third.
    """
    built = layer(*args, key=key, **kwargs)
    initialise = jax.nn.initializers.lecun_normal(in_axis=1, out_axis=0)
    weight = initialise(key, built.weight.shape, built.weight.dtype)
    weighted = eqx.tree_at(lambda layer: layer.weight, built, weight)
    return eqx.tree_at(lambda layer: layer.bias, weighted, replace_fn=jnp.zeros_like)
