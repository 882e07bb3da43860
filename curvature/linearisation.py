from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Scalar, Shaped

from .likelihoods import AbstractLoss


class LinearisedTerm(eqx.Module):
    """One term of an objective at the current weights, with its n examples.

    - `likelihood`: scores one example's outputs.
    - `scale`: weight/n, the factor of every sum over this term's examples.
    - `outputs`, `targets`: z and y, leading axis n.
    - `example`: `(params, input, key) -> z`, the outputs of one example as a function of the
      trainable weights.
    - `inputs`, `keys`: the second and third arguments of `example`, leading axis n (`keys` may
      be None).
    """

    likelihood: AbstractLoss
    scale: Scalar
    outputs: Float[Array, "n *shape"]
    targets: PyTree[Array]
    example: Callable[[PyTree, Any, PRNGKeyArray | None], Array]
    inputs: PyTree[Array]
    keys: Shaped[Array, "n ..."] | None

    @property
    def size(self) -> int:
        """n, the number of examples."""
        return self.outputs.shape[0]

    @property
    def output_size(self) -> int:
        """c, how many numbers the model gives for one example."""
        return self.outputs[0].size


class Linearisation(eqx.Module):
    """An objective and its model, linearised once at the current weights.

    - `loss`: L = Σ_t weight_t/n_t Σ_i nll(z_i, y_i), a scalar.
    - `grad`: ∇L, with the structure of the trainable weights.
    - `cotangents`: ∂L/∂z per term, [n, ...]: ∇L is their pullback.
    - `outputs`: the model's outputs, arranged as the batch is: an array [n, ...] per term.
    - `params`: the trainable weights it was made at; everything else of the model is None.
    - `terms`: the terms in the order of the flattened batch.
    - `jvp`: the linear map J from a change of the weights to the changes of all outputs, as a
      tuple of arrays [n, ...], one per term. It holds the intermediate values of the one forward
      pass, so that a product costs no second one.
    """

    loss: Scalar
    grad: PyTree[Float[Array, "..."]]
    cotangents: tuple[Float[Array, "..."], ...]
    outputs: PyTree[Float[Array, "..."]]
    params: PyTree[Float[Array, "..."]]
    terms: tuple[LinearisedTerm, ...]
    jvp: Callable[[PyTree], tuple[Array, ...]]

    def vjp(self, cotangents: tuple[Array, ...]) -> PyTree[Float[Array, "..."]]:
        """Jᵀ applied to one cotangent [n, ...] per term: a pytree like the trainable weights."""
        return transpose(self.jvp, self.params)(cotangents)


def transpose(
    jvp: Callable[[PyTree], tuple[Array, ...]], params: PyTree
) -> Callable[[tuple[Array, ...]], PyTree]:
    """The transpose of a linear function of `params`."""
    pullback = jax.linear_transpose(jvp, params)
    return lambda cotangents: pullback(cotangents)[0]


def example_keys(key: PRNGKeyArray | None, n: int) -> Shaped[Array, "n ..."] | None:
    """One key per example, the i-th a function of (key, i) alone."""
    if key is None:
        return None
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(n))


def term_key(key: PRNGKeyArray | None, index: int) -> PRNGKeyArray | None:
    """The key of the `index`-th term."""
    return None if key is None else jax.random.fold_in(key, index)
