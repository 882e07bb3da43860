from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PRNGKeyArray, PyTree, ScalarLike

from .._checks import instance_of, number, scalar, takes_key
from .._precision import full_precision
from ..likelihoods import AbstractLoss


class Term(eqx.Module):
    """One term of an objective: a per-example map, a likelihood and a weight.

    - `outputs`: `(model, x_i) -> z_i`, one array for one example. If `outputs` has a parameter
      `key`, it is called as `outputs(model, x_i, key=...)`, with a different key per example.
    - `likelihood`: gives nll(z_i, y_i), the loss of the example with the target y_i.
    - `weight`: a number ≥ 0. The term adds weight/n Σ_i nll(z_i, y_i) to the loss. Its curvature
      has the same factor weight/n.
    """

    outputs: Callable[..., Array]
    likelihood: AbstractLoss
    weight: ScalarLike

    def __init__(
        self,
        outputs: Callable[..., Array],
        likelihood: AbstractLoss,
        weight: ScalarLike = 1.0,
    ):
        check_likelihood("Term", likelihood)
        number("Term(weight=...)", weight)
        self.outputs = outputs
        self.likelihood = likelihood
        self.weight = scalar(weight)

    @full_precision
    def example(self, model: PyTree, x: Any, key: PRNGKeyArray | None) -> Array:
        """The outputs z of one example."""
        z = self.outputs(model, x, key=key) if takes_key(self.outputs) else self.outputs(model, x)
        if not eqx.is_inexact_array(z):
            raise ValueError(
                "The outputs of a term must be one floating-point array per example, got "
                f"{jtu.tree_map(jnp.shape, z)}. Return a single array from the model, or write a "
                "`Term` whose `outputs` selects one."
            )
        if jnp.iscomplexobj(z):
            raise ValueError(
                f"The outputs of a term must be real, got an array of dtype {z.dtype}. Return its "
                "real and imaginary parts, or its absolute value."
            )
        return z


def check_likelihood(of: str, likelihood: object) -> None:
    """Raise unless `likelihood` is an `AbstractLoss`; `of` is the class that takes it."""
    instance_of(
        f"{of}(likelihood=...)",
        likelihood,
        AbstractLoss,
        "a likelihood, such as `Categorical()` or `Gaussian()`",
        "For a loss of your own, subclass `AbstractLoss` and write the method `nll(z, y)`.",
    )


def call_model(model: Callable[..., Array], x: Any, *, key: PRNGKeyArray | None = None) -> Array:
    """`model(x)`, with `key` where the model takes one."""
    return model(x, key=key) if takes_key(model) else model(x)
