import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, PyTree, Scalar

from .._trees import add_scaled
from ._base import AbstractLinearisation, AbstractPartResults, LinearisedTerm, domain_of, penalised

_NO_FORWARD_MODE = (
    "The model uses an operation without forward-mode derivatives (a `jax.custom_vjp`), and the "
    "backward pass of this operation cannot be transposed. Products with a curvature need one "
    "of the two. Write the operation with `jax.custom_jvp`, or without a custom rule."
)


class Linearisation(AbstractLinearisation):
    """The whole batch, linearised once; the intermediate values of the forward pass are kept.

    A product with J or Jᵀ costs about half a gradient. `residuals` are the intermediate values;
    `push` and `pull` compute J v and Jᵀ u from them. The other fields are those of
    `AbstractLinearisation`.
    """

    loss: Scalar
    grad: PyTree[Float[Array, "..."]]
    outputs: PyTree[Float[Array, "..."]]
    params: PyTree[Float[Array, "..."]]
    terms: tuple[LinearisedTerm, ...]
    cotangents: tuple[Float[Array, "..."], ...]
    l2: Scalar | None
    constant: Scalar | None
    valid: Bool[Array, ""]
    residuals: list[Any]
    push: Callable[..., Any] = eqx.field(static=True)
    pull: Callable[..., Any] = eqx.field(static=True)
    whole: bool = eqx.field(static=True, default=True)

    @property
    def micro_batch(self) -> None:
        return None

    def jvp(self, vector: PyTree[Array]) -> tuple[Array, ...]:
        return self.push(self.residuals, vector)

    def vjp(self, cotangents: tuple[Array, ...]) -> PyTree[Array]:
        return self.pull(self.residuals, cotangents)

    def first(self, most: int) -> "Linearisation":
        if all(term.size <= most for term in self.terms):
            return self
        terms = tuple(first_of(term, most) for term in self.terms)
        treedef = jtu.tree_structure(self.outputs)
        some = linearised(terms, treedef, self.params, self.l2, self.constant)
        return dataclasses.replace(some, whole=False)

    def each(
        self, fn: Callable[[AbstractLinearisation, Any], Any], of_terms: Sequence[PyTree]
    ) -> "_WholeResult":
        return _WholeResult(fn(self, of_terms))

    def over_terms(self, fn: Callable[[Sequence[LinearisedTerm]], PyTree[Array]]) -> PyTree[Array]:
        return fn(self.terms)


class _WholeResult(AbstractPartResults):
    """The result of the only part, the whole batch."""

    def __init__(self, found: Any):
        self._found = found

    def sum(self, fn: Callable[[Any], PyTree[Array]] = lambda found: found) -> PyTree[Array]:
        return fn(self._found)


def linearised(
    terms: tuple[LinearisedTerm, ...],
    treedef: Any,
    params: PyTree[Array],
    l2: Scalar | None,
    constant: Scalar | None,
) -> Linearisation:
    """Linearises the terms at `params` and computes their outputs.

    **Arguments:** `treedef`, the tree structure of the terms in the batch; the others as the fields
    of `AbstractLinearisation`.
    """

    def outputs(params: PyTree) -> tuple[Array, ...]:
        return tuple(term.outputs_at(params) for term in terms)

    forward_mode = all(term.layers.traced.graph.has_forward_mode for term in terms)
    zs, residuals, push, pull = (_by_jvp if forward_mode else _by_vjp)(outputs, params)
    losses, cotangents, done, valid = [], [], [], jnp.asarray(True)
    for term, z in zip(terms, zs, strict=True):
        in_domain = domain_of(term.likelihood, z, term.targets)
        valid &= jnp.all(in_domain)
        z = jnp.where(in_domain.reshape(-1, *[1] * (z.ndim - 1)), z, jnp.nan)
        loss, cotangent = term.scored(z)
        losses.append(loss)
        cotangents.append(cotangent)
        done.append(dataclasses.replace(term, outputs=z))
    loss = penalised(jnp.asarray(sum(losses)), params, l2, constant)
    grad = pull(residuals, tuple(cotangents))
    return Linearisation(
        loss=loss,
        grad=grad if l2 is None else add_scaled(grad, l2, params),
        outputs=jtu.tree_unflatten(treedef, [term.outputs for term in done]),
        params=params,
        terms=tuple(done),
        cotangents=tuple(cotangents),
        l2=l2,
        constant=constant,
        valid=valid,
        residuals=residuals,
        push=push,
        pull=pull,
    )


# J and Jᵀ are jitted functions of the residuals. Without `jit`, every call would trace the linear
# program, or its transpose, again.


def _by_jvp(fn: Callable[[PyTree], Any], params: PyTree[Array]) -> tuple[Any, Any, Any, Any]:
    zs, linear = jax.linearize(fn, params)
    residuals, treedef = jtu.tree_flatten(linear)
    shapes = jax.eval_shape(lambda: params)

    def apply(residuals: list[Any], vector: PyTree) -> Any:
        return jtu.tree_unflatten(treedef, residuals)(vector)

    def transposed(residuals: list[Any], cotangents: Any) -> Any:
        transpose = jax.linear_transpose(lambda v: apply(residuals, v), shapes)
        return transpose(cotangents)[0]

    return zs, residuals, jax.jit(apply), jax.jit(transposed)


def _by_vjp(fn: Callable[[PyTree], Any], params: PyTree[Array]) -> tuple[Any, Any, Any, Any]:
    """As `_by_jvp`, for operations without forward mode, such as those with a `jax.custom_vjp`.

    Jᵀ u comes from `jax.vjp` and is linear in u. Its transpose is J.
    """
    zs, pullback = jax.vjp(fn, params)
    residuals, treedef = jtu.tree_flatten(pullback)
    shapes = jax.eval_shape(lambda: zs)

    def apply(residuals: list[Any], cotangents: Any) -> Any:
        return jtu.tree_unflatten(treedef, residuals)(cotangents)[0]

    def transposed(residuals: list[Any], vector: PyTree) -> Any:
        try:
            transpose = jax.linear_transpose(lambda c: apply(residuals, c), shapes)
            return transpose(vector)[0]
        except Exception as error:
            raise ValueError(_NO_FORWARD_MODE) from error

    return zs, residuals, jax.jit(transposed), jax.jit(apply)


def first_of(term: LinearisedTerm, most: int) -> LinearisedTerm:
    """The first k ≤ `most` examples of a term, without outputs; the scale has 1/k, not 1/n."""
    k = min(most, term.size)
    x, y, keys = jtu.tree_map(lambda leaf: leaf[:k], (term.inputs, term.targets, term.keys))
    scale = term.scale[:k] if term.scale.ndim else term.scale
    return dataclasses.replace(
        term, scale=scale * (term.size / k), outputs=None, inputs=x, targets=y, keys=keys
    )
