import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .rows import AbstractBlockRows, LayerRows


class GroupRows(AbstractBlockRows):
    """The rows of a convolution in groups: the rows of all groups, side by side.

    Each group is a layer of its own. Its matrix is a range of rows of the array [groups · out, in].

    - `groups`: the rows of all groups; the arrays have a leading axis of groups.
    """

    groups: LayerRows

    def mv(self, array: Float[Array, "outs in"]) -> Float[Array, " m"]:
        per_group = array.reshape(len(self.groups.inputs), -1, array.shape[1])
        return jnp.sum(jax.vmap(LayerRows.mv)(self.groups, per_group), axis=0)

    def transpose_mv(self, weights: Float[Array, " m"]) -> Float[Array, "outs in"]:
        return _below(jax.vmap(lambda rows: rows.transpose_mv(weights))(self.groups))

    def gram(self) -> Float[Array, "m m"]:
        # A loop, since the Gram matrices of many groups at once may take much memory.
        m = self.groups.cotangents.shape[1] * self.groups.cotangents.shape[2]
        zeros = jnp.zeros((m, m), self.groups.cotangents.dtype)
        return jax.lax.scan(lambda total, rows: (total + rows.gram(), None), zeros, self.groups)[0]

    def squares(self) -> Float[Array, "outs in"]:
        return _below(jax.lax.map(LayerRows.squares, self.groups))


def _below(matrices: Float[Array, "groups out in"]) -> Float[Array, "outs in"]:
    """The matrices of all groups, stacked vertically."""
    return matrices.reshape(-1, matrices.shape[-1])
