import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, PyTree

from .._precision import full_precision
from ._base import AbstractPositiveOperator


class DenseOperator(AbstractPositiveOperator):
    """A symmetric positive semidefinite matrix on the trainable weights, ravelled."""

    matrix: Float[Array, "P P"]
    structure: PyTree[jax.ShapeDtypeStruct] = eqx.field(static=True)

    def __init__(self, matrix: Float[Array, "P P"], structure: PyTree[jax.ShapeDtypeStruct]):
        self.matrix = matrix
        leaves, treedef = jtu.tree_flatten(structure)
        self.structure = (tuple(leaves), treedef)  # a static field must be hashable

    @full_precision
    def mv(self, vector: PyTree[Float[Array, "..."]]) -> PyTree[Float[Array, "..."]]:
        flat, unravel = jfu.ravel_pytree(vector)
        return unravel((self.matrix @ flat.astype(self.matrix.dtype)).astype(flat.dtype))

    def as_matrix(self) -> Float[Array, "P P"]:
        return self.matrix

    def diagonal(self) -> Float[Array, " P"]:
        return jnp.diagonal(self.matrix)

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        leaves, treedef = self.structure
        return jtu.tree_unflatten(treedef, leaves)
