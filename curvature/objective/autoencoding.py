from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree, ScalarLike

from ..likelihoods import AbstractLoss
from ._base import AbstractObjective
from ._settings import checked_l2, checked_micro_batch
from ._term import Term, call_model, check_likelihood


class Autoencoding(AbstractObjective):
    """L = 1/n Σ_i nll(model(x_i), x_i), outputs and target ravelled; a batch is `(inputs, _)`.

    The second entry of the batch (the labels) is not used.
    """

    likelihood: AbstractLoss
    l2: ScalarLike | None
    micro_batch: int | None = eqx.field(static=True)

    def __init__(
        self,
        likelihood: AbstractLoss,
        l2: ScalarLike | None = None,
        micro_batch: int | None = None,
    ):
        check_likelihood("Autoencoding", likelihood)
        self.likelihood = likelihood
        self.l2 = checked_l2(l2)
        self.micro_batch = checked_micro_batch(micro_batch)

    def terms(self) -> PyTree[Term]:
        return Term(_ravelled, self.likelihood)

    def examples(self, batch: PyTree) -> PyTree:
        inputs, _, *weights = batch
        return inputs, jax.vmap(jnp.ravel)(inputs), *weights


def _ravelled(model: Callable[..., Array], x: Any, *, key: PRNGKeyArray | None = None) -> Array:
    return jnp.ravel(call_model(model, x, key=key))
