"""The blocks of weights that belong to no recognised layer, computed from their rows."""

from collections.abc import Sequence

import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from ...linearisation import AbstractLinearisation
from ...rows import sum_over_rows
from ._partition import Group


def blocks_of(
    linearisation: AbstractLinearisation,
    factors: tuple[lx.AbstractLinearOperator, ...],
    dense: Sequence[Group],
    elementwise: Sequence[Group],
) -> tuple[list[Float[Array, "_L _p _p2"]], list[list[Float[Array, "..."]]]]:
    """The matrices of the `dense` groups, and the diagonals of the `elementwise` groups.

    A matrix is [L, p, p], with L = 1 for a group that is not stacked. All rows of these weights are
    computed by automatic differentiation, in one pass over the examples.
    """
    leaves = jtu.tree_leaves(linearisation.params)
    wanted = sorted(j for group in (*dense, *elementwise) for j in group.leaves)
    if not wanted:
        return [], []
    starts = np.concatenate([[0], np.cumsum([leaves[j].size for j in wanted])])
    places = {j: slice(starts[i], starts[i + 1]) for i, j in enumerate(wanted)}

    def sums(rows: Float[Array, "m P"]) -> tuple[list[Array], list[list[Array]]]:
        matrices = []
        for group in dense:
            parts = [
                rows[:, places[j]].reshape(len(rows), group.length or 1, -1) for j in group.leaves
            ]
            of_group = jnp.concatenate(parts, axis=2)
            matrices.append(jnp.einsum("mli,mlj->lij", of_group, of_group))
        diagonals = [
            [
                jnp.sum(rows[:, places[j]] ** 2, axis=0).reshape(leaves[j].shape)
                for j in group.leaves
            ]
            for group in elementwise
        ]
        return matrices, diagonals

    return sum_over_rows(linearisation, factors, sums, wanted)
