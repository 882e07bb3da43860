from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, PyTree, Scalar

from ..._precision import full_precision
from ..._trees import work_dtype
from .._base import AbstractInvertibleOperator, AbstractPositiveOperator, matrix_by_products
from ._base import AbstractBlock


class BlockOperator(AbstractInvertibleOperator):
    """A block-diagonal operator on the trainable weights.

    - `blocks`: every weight belongs to one of them.
    - `leaves`: the numbers of each block's weights, in the order of the leaves.
    """

    blocks: tuple[AbstractBlock, ...]
    leaves: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    structure: Any = eqx.field(static=True)

    def __init__(
        self,
        blocks: Sequence[AbstractBlock],
        leaves: Sequence[tuple[int, ...]],
        structure: PyTree[jax.ShapeDtypeStruct],
    ):
        self.blocks, self.leaves = tuple(blocks), tuple(leaves)
        shapes, treedef = jtu.tree_flatten(structure)
        self.structure = (tuple(shapes), treedef)  # hashable

    @full_precision
    def mv(self, vector: PyTree[Float[Array, "..."]]) -> PyTree[Float[Array, "..."]]:
        return self.apply(lambda block, arrays: block.mv(arrays), vector)

    @full_precision
    def as_matrix(self) -> Float[Array, "P P"]:
        return matrix_by_products(self)

    def diagonal(self) -> Float[Array, " P"]:
        shapes, treedef = self.structure
        found = list(shapes)
        for block, numbers in zip(self.blocks, self.leaves, strict=True):
            for j, values in zip(numbers, block.diagonal(), strict=True):
                found[j] = values
        return jfu.ravel_pytree(treedef.unflatten(found))[0]

    def inverse(self, damping: Scalar) -> AbstractPositiveOperator:
        return _Inverse(self, damping)

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        shapes, treedef = self.structure
        return jtu.tree_unflatten(treedef, shapes)

    def apply(
        self,
        fn: Callable[[AbstractBlock, list[Array]], list[Array]],
        vector: PyTree[Float[Array, "..."]],
    ) -> PyTree[Float[Array, "..."]]:
        """What `fn` makes of each block and its part of a vector, in the dtypes of the vector."""
        leaves, treedef = jtu.tree_flatten(vector)
        found = list(leaves)
        for block, numbers in zip(self.blocks, self.leaves, strict=True):
            made = fn(block, [leaves[j].astype(work_dtype(leaves[j])) for j in numbers])
            for j, array in zip(numbers, made, strict=True):
                found[j] = array.astype(leaves[j].dtype)
        return treedef.unflatten(found)


class _Inverse(AbstractPositiveOperator):
    """(C + λI)⁻¹, block by block."""

    operator: BlockOperator
    damping: Scalar

    @full_precision
    def mv(self, vector: PyTree[Float[Array, "..."]]) -> PyTree[Float[Array, "..."]]:
        return self.operator.apply(lambda b, arrays: b.inverse_mv(self.damping, arrays), vector)

    @full_precision
    def as_matrix(self) -> Float[Array, "P P"]:
        return matrix_by_products(self)

    def diagonal(self) -> Float[Array, " P"]:
        return jnp.diagonal(self.as_matrix())

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        return self.operator.in_structure()
