"""The examples of a batch: their loss, their parts and their weights."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, Int, PyTree, Scalar

from .._trees import widen
from ..linearisation import Example, Parts, losses_of

_SHOWN = 4


def loss_of(model: PyTree, examples: Sequence[Example]) -> tuple[Scalar, Bool[Array, ""]]:
    """The sum of the terms, and whether all targets lie in the domains of their likelihoods."""
    losses, valid = [], jnp.asarray(True)
    for fn, likelihood, scale, inputs, targets, keys in examples:
        z = widen(eqx.filter_vmap(fn, in_axes=(None, 0, 0))(model, inputs, keys))
        nll, in_domain = losses_of(likelihood, z, targets)
        valid &= in_domain
        losses.append(jnp.sum(scale.astype(nll.dtype) * nll))
    return jnp.asarray(sum(losses)), valid


def part_of(examples: Sequence[Example], parts: Parts, i: Int[Array, ""]) -> list[Example]:
    """The examples of one part; repeated examples get a scale of 0."""
    of_terms = [
        (each.inputs, each.targets, each.keys, jnp.broadcast_to(each.scale, (n,)))
        for each, n in zip(examples, parts.sizes, strict=True)
    ]
    found = []
    for each, (some, counts) in zip(examples, parts.cut(of_terms, i), strict=True):
        inputs, targets, keys, scale = some
        scale = jnp.where(counts, scale, 0)
        found.append(each._replace(inputs=inputs, targets=targets, keys=keys, scale=scale))
    return found


def weighted(
    inputs: PyTree, targets: PyTree, weights: Float[Array, " n"], scale: Scalar
) -> tuple[PyTree, PyTree, Float[Array, " n"]]:
    """The examples and their scales; a copy of a used example replaces each one of weight 0.

    The model is not evaluated at the replaced example, which may hold NaN: 0·NaN is NaN in the loss
    and in every derivative. So the derivative in a weight that is 0 is not known; it is NaN.
    """
    if weights.ndim != 1 or not jnp.issubdtype(weights.dtype, jnp.floating):
        raise ValueError(
            "The weights of a batch (inputs, targets, weights) must be one floating-point number "
            f"per example, got an array of shape {weights.shape} and dtype {weights.dtype}."
        )
    weights = widen(weights)  # in half precision weight/n would be rounded
    used = weights != 0
    rows = jnp.where(used, jnp.arange(len(weights)), jnp.argmax(used))
    # If no example is used, none can replace the others: then all of them are zeros.
    inputs, targets = jtu.tree_map(
        lambda leaf: jnp.where(jnp.any(used), leaf[rows], jnp.zeros((), leaf.dtype)),
        (inputs, targets),
    )
    weights = _nan_derivative_at_zero(weights)
    # A negative weight becomes NaN, since its curvature would not be positive semidefinite.
    return inputs, targets, jnp.where(weights >= 0, weights, jnp.nan) * scale.astype(weights.dtype)


@jax.custom_jvp
def _nan_derivative_at_zero(weights: Float[Array, " n"]) -> Float[Array, " n"]:
    return weights


@_nan_derivative_at_zero.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (weights,), (tangent,) = primals, tangents
    return weights, jnp.where(weights == 0, jnp.nan, 1) * tangent


def leading_axis(*parts: PyTree) -> int:
    """The number of examples; raises unless all arrays have the same."""
    shapes = [jnp.shape(leaf) for leaf in jtu.tree_leaves(parts)]
    sizes = {shape[0] if shape else 0 for shape in shapes}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            "Inputs, targets and weights of a term must share one leading axis of at least one "
            f"example, got arrays of shapes {_shown(shapes)}."
        )
    (n,) = sizes
    return n


def _shown(shapes: list[tuple[int, ...]]) -> str:
    """Some shapes: a list of numbers, which JAX takes for as many scalars, has very many."""
    some = ", ".join(map(str, shapes[:_SHOWN]))
    more = len(shapes) - _SHOWN
    return some if more <= 0 else f"{some} and {more} more. Make arrays of lists"
