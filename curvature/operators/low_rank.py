import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, PyTree, Scalar

from .._precision import full_precision
from ._base import AbstractInvertibleOperator
from ._solved import Solved, solved_by_product


class LowRankOperator(AbstractInvertibleOperator):
    """U diag(s) Uᵀ + c (I − U Uᵀ) on the trainable weights, ravelled.

    A damped inverse is of the same kind, by Woodbury's identity for a U with orthonormal columns:
    U diag(1/(s + λ)) Uᵀ + 1/(c + λ) (I − U Uᵀ).

    **Arguments:** `vectors`, U, orthonormal columns; `values`, s ≥ 0; `structure`, the shapes of
    the weights; `rest`, c ≥ 0, or None for 0.
    """

    vectors: Float[Array, "P r"]
    values: Float[Array, " r"]
    structure: PyTree[jax.ShapeDtypeStruct] = eqx.field(static=True)
    rest: Scalar | None

    def __init__(
        self,
        vectors: Float[Array, "P r"],
        values: Float[Array, " r"],
        structure: PyTree[jax.ShapeDtypeStruct],
        rest: Scalar | None = None,
    ):
        self.vectors = vectors
        self.values = values
        leaves, treedef = jtu.tree_flatten(structure)
        self.structure = (tuple(leaves), treedef)  # a static field must be hashable
        self.rest = rest

    @full_precision
    def mv(self, vector: PyTree[Float[Array, "..."]]) -> PyTree[Float[Array, "..."]]:
        flat, unravel = jfu.ravel_pytree(vector)
        U, v = self.vectors, flat.astype(self.vectors.dtype)
        inside = v @ U
        product = U @ (self.values * inside)
        if self.rest is not None:
            outside = v - U @ inside
            # Project twice: rounding leaves a part of v in the span of U, and c, which may be 1/λ,
            # would amplify it.
            outside = outside - U @ (outside @ U)
            product = product + self.rest * outside
        return unravel(product.astype(flat.dtype))

    @full_precision
    def as_matrix(self) -> Float[Array, "P P"]:
        U, rest = self.vectors, self._rest()
        return (U * (self.values - rest)[None, :]) @ U.T + rest * jnp.eye(len(U), dtype=U.dtype)

    def diagonal(self) -> Float[Array, " P"]:
        rest = self._rest()
        return jnp.sum((self.values - rest)[None, :] * self.vectors**2, axis=1) + rest

    def describe(self) -> str:
        return f"rank {self.values.size}: all weights"

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        leaves, treedef = self.structure
        return jtu.tree_unflatten(treedef, leaves)

    def inverse(self, damping: Scalar) -> "LowRankOperator":
        damping = damping.astype(self.values.dtype)
        return LowRankOperator(
            self.vectors,
            1 / (self.values + damping),
            self.in_structure(),
            1 / (self._rest() + damping),
        )

    def solve(self, b: PyTree[Float[Array, "..."]], damping: Scalar) -> Solved:
        return solved_by_product(self.mv, damping, b, self.inverse(damping).mv(b))

    def _rest(self) -> Scalar:
        return jnp.zeros((), self.values.dtype) if self.rest is None else self.rest
