import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .rows import AbstractBlockRows, LayerRows


class GroupRows(AbstractBlockRows):
    """The rows of a convolution in groups: those of all its groups, side by side.

    A group is a layer by itself; its matrix is some rows of the array [groups · out, in].

    - `groups`: the rows of each, whose arrays have a leading axis of groups.
    """

    groups: LayerRows

    def mv(self, array: Float[Array, "outs in"]) -> Float[Array, " m"]:
        per_group = array.reshape(len(self.groups.inputs), -1, array.shape[1])
        return jnp.sum(jax.vmap(LayerRows.mv)(self.groups, per_group), axis=0)

    def transpose_mv(self, weights: Float[Array, " m"]) -> Float[Array, "outs in"]:
        return _below(jax.vmap(lambda rows: rows.transpose_mv(weights))(self.groups))

    def gram(self) -> Float[Array, "m m"]:
        # By a loop, since the matrices of many groups together may be large.
        m = self.groups.cotangents.shape[1] * self.groups.cotangents.shape[2]
        zeros = jnp.zeros((m, m), self.groups.cotangents.dtype)
        return jax.lax.scan(lambda total, rows: (total + rows.gram(), None), zeros, self.groups)[0]

    def squares(self) -> Float[Array, "outs in"]:
        return _below(jax.lax.map(LayerRows.squares, self.groups))


def _below(matrices: Float[Array, "groups out in"]) -> Float[Array, "outs in"]:
    """The matrices of all groups, one below another."""
    return matrices.reshape(-1, matrices.shape[-1])
