import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, Float, PyTree, Scalar

from ._base import AbstractInvertibleOperator
from ._solved import Solved, solved_by_product


class DiagonalOperator(AbstractInvertibleOperator):
    """A diagonal matrix on the trainable weights.

    **Arguments:** `values`, the diagonal entries ≥ 0, in a pytree like that of the weights.
    """

    values: PyTree[Float[Array, "..."]]

    def mv(self, vector: PyTree[Float[Array, "..."]]) -> PyTree[Float[Array, "..."]]:
        return jtu.tree_map(jnp.multiply, self.values, vector)

    def as_matrix(self) -> Float[Array, "P P"]:
        return jnp.diag(self.diagonal())

    def diagonal(self) -> Float[Array, " P"]:
        return jfu.ravel_pytree(self.values)[0]

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        return jax.eval_shape(lambda: self.values)

    def inverse(self, damping: Scalar) -> "DiagonalOperator":
        inverted = jtu.tree_map(lambda d: 1 / (d + damping.astype(d.dtype)), self.values)
        return DiagonalOperator(inverted)

    def solve(self, b: PyTree[Float[Array, "..."]], damping: Scalar) -> Solved:
        return solved_by_product(self.mv, damping, b, self.inverse(damping).mv(b))

    def describe(self) -> str:
        return "diagonal: all weights"


lx.is_diagonal.register(DiagonalOperator)(lambda operator: True)
