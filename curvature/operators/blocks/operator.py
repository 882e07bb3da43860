from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, PyTree, Scalar

from ..._precision import full_precision
from ..._trees import vdot, work_dtype
from .._base import AbstractInvertibleOperator, AbstractPositiveOperator, matrix_by_products
from .._solved import Solved
from ._base import AbstractBlock, AbstractBlockMap

_MOST_NAMES = 4


class BlockOperator(AbstractInvertibleOperator):
    """A block-diagonal operator on the trainable weights.

    - `blocks`: the diagonal blocks; every weight belongs to one of them.
    - `leaves`: per block, the numbers of its weights, in the order of the leaves.
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
        self.structure = (tuple(shapes), treedef)  # a static field must be hashable

    @full_precision
    def mv(self, vector: PyTree[Float[Array, "..."]]) -> PyTree[Float[Array, "..."]]:
        return _apply_blocks([block.mv for block in self.blocks], self.leaves, vector)

    @full_precision
    def as_matrix(self) -> Float[Array, "P P"]:
        return matrix_by_products(self)

    def diagonal(self) -> Float[Array, " P"]:
        shapes, treedef = self.structure
        found = list(shapes)
        for block, numbers in zip(self.blocks, self.leaves, strict=True):
            for j, values in zip(numbers, block.diagonal(), strict=True):
                found[j] = values.reshape(shapes[j].shape)
        return jfu.ravel_pytree(treedef.unflatten(found))[0]

    @full_precision
    def inverse(self, damping: Scalar) -> AbstractPositiveOperator:
        inverses = tuple(block.inverse(damping) for block in self.blocks)
        return _Inverse(inverses, self.leaves, self.structure)

    @full_precision
    def solve(self, b: PyTree[Float[Array, "..."]], damping: Scalar) -> Solved:
        return _solve_blocks(
            [partial(block.solve, damping=damping) for block in self.blocks], self.leaves, b
        )

    @full_precision
    def solve_gradient(self, b: PyTree[Float[Array, "..."]], damping: Scalar) -> Solved:
        solves = [partial(block.solve_gradient, damping=damping) for block in self.blocks]
        return _solve_blocks(solves, self.leaves, b)

    def describe(self) -> str:
        """Each kind of block with the modules that have it, such as `exact blocks: norm`."""
        paths = [path for path, _ in jtu.tree_flatten_with_path(self.in_structure())[0]]
        modules: dict[str, list[str]] = {}
        for block, own in zip(self.blocks, self.leaves, strict=True):
            path = paths[own[0]][:-1] or paths[own[0]]
            modules.setdefault(block.kind, []).append(jtu.keystr(path).lstrip("."))
        return "; ".join(f"{kind}: {_listed(names)}" for kind, names in modules.items())

    @property
    def has_rows(self) -> bool:
        """Whether a block holds rows, or inputs and cotangents that rows are made of."""
        return any(block.has_rows for block in self.blocks)

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        shapes, treedef = self.structure
        return jtu.tree_unflatten(treedef, shapes)


def _listed(names: Sequence[str]) -> str:
    """All names, or the first, the last and the number of names if there are many."""
    if len(names) <= _MOST_NAMES:
        return ", ".join(names)
    return f"{names[0]} to {names[-1]} ({len(names)})"


class _Inverse(AbstractPositiveOperator):
    """(C + λI)⁻¹, block by block."""

    inverses: tuple[AbstractBlockMap, ...]
    leaves: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    structure: Any = eqx.field(static=True)

    @full_precision
    def mv(self, vector: PyTree[Float[Array, "..."]]) -> PyTree[Float[Array, "..."]]:
        return _apply_blocks([one.mv for one in self.inverses], self.leaves, vector)

    @full_precision
    def as_matrix(self) -> Float[Array, "P P"]:
        return matrix_by_products(self)

    def diagonal(self) -> Float[Array, " P"]:
        return jnp.diagonal(self.as_matrix())

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        shapes, treedef = self.structure
        return jtu.tree_unflatten(treedef, shapes)


def _solve_blocks(
    solves: Sequence[Callable[[list[Array]], Solved]],
    numbers: Sequence[tuple[int, ...]],
    b: PyTree[Array],
) -> Solved:
    """Solves with all blocks, and adds up the other fields of their `Solved`."""
    found = []

    def kept(solve: Callable[[list[Array]], Solved], arrays: list[Array]) -> list[Array]:
        one = solve(arrays)
        found.append(
            Solved(
                one.direction,
                one.metric,
                one.squared_residual,
                vdot(one.direction, arrays) if one.slope is None else one.slope,
                vdot(arrays, arrays) if one.squared_vector is None else one.squared_vector,
            )
        )
        return one.direction

    d = _apply_blocks([partial(kept, solve) for solve in solves], numbers, b)
    dtype = work_dtype(b)
    numbers_of = [
        [
            number.astype(dtype)
            for number in (x.metric, x.squared_residual, x.slope, x.squared_vector)
        ]
        for x in found
    ]
    return Solved(d, *[sum(column, jnp.zeros((), dtype)) for column in zip(*numbers_of)])


def _apply_blocks(
    maps: Sequence[Callable[[list[Array]], list[Array]]],
    numbers: Sequence[tuple[int, ...]],
    vector: PyTree[Array],
) -> PyTree[Array]:
    """Applies each map to its own weights; the result has the dtypes of the vector."""
    leaves, treedef = jtu.tree_flatten(vector)
    found = list(leaves)
    for one, own in zip(maps, numbers, strict=True):
        made = one([leaves[j].astype(work_dtype(leaves[j])) for j in own])
        for j, array in zip(own, made, strict=True):
            found[j] = array.astype(leaves[j].dtype)
    return treedef.unflatten(found)
