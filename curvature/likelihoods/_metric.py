from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Real, Scalar


def _unit_weight(z: Float[Array, "*shape"], y: Any) -> Scalar:
    del y
    return jnp.ones((), z.dtype)


class Metric(NamedTuple):
    """A number to report beside the loss: `finish(Σ_i example(z_i, y_i) / Σ_i weight(z_i, y_i))`.

    - `name`: the name of the number in a report.
    - `example`, `weight`: `(z, y) -> scalar` for one example; the weight is 1 by default.
    - `finish`: a function of the mean, such as `float` or `math.sqrt`.
    """

    name: str
    example: Callable[[Array, Any], Scalar]
    finish: Callable[[float], float]
    weight: Callable[[Array, Any], Scalar] = _unit_weight


def mean_square(z: Float[Array, "*shape"], y: Real[Array, "*shape"]) -> Scalar:
    """1/c ‖z − y‖². The root of its mean over the examples is the root mean square error."""
    return jnp.mean(jnp.square(z - y.astype(z.dtype)))
