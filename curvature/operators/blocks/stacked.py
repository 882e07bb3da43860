from collections.abc import Callable, Sequence

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Scalar

from .._solved import Solved
from ._base import AbstractBlock, AbstractBlockMap


class StackedBlock(AbstractBlock):
    """One block for each of L slices of some weights: [L, ...], or L groups along the first axis.

    - `blocks`: all blocks as one object, whose arrays have a leading axis L.
    - `shapes`: the shape of one slice of each weight.
    """

    blocks: AbstractBlock
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    @property
    def kind(self) -> str:
        return self.blocks.kind

    @property
    def has_rows(self) -> bool:
        return self.blocks.has_rows

    def mv(self, arrays: list[Array]) -> list[Array]:
        return _products(self.blocks, self.shapes, arrays)

    def diagonal(self) -> list[Array]:
        return eqx.filter_vmap(lambda block: block.diagonal())(self.blocks)

    def inverse(self, damping: Scalar) -> AbstractBlockMap:
        inverses = eqx.filter_vmap(lambda block: block.inverse(damping))(self.blocks)
        return _StackedMap(inverses, self.shapes)

    def solve(self, arrays: list[Array], damping: Scalar) -> Solved:
        return self._solve_slices(lambda block, b: block.solve(b, damping), arrays)

    def solve_gradient(self, arrays: list[Array], damping: Scalar) -> Solved:
        return self._solve_slices(lambda block, b: block.solve_gradient(b, damping), arrays)

    def _solve_slices(
        self, solve: Callable[[AbstractBlock, list[Array]], Solved], arrays: list[Array]
    ) -> Solved:
        each = eqx.filter_vmap(solve)(self.blocks, _slices(self.blocks, self.shapes, arrays))
        numbers = each.metric, each.squared_residual, each.slope, each.squared_vector
        return Solved(_shaped(each.direction, arrays), *jtu.tree_map(jnp.sum, numbers))


class _StackedMap(AbstractBlockMap):
    maps: AbstractBlockMap
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    def mv(self, arrays: list[Array]) -> list[Array]:
        return _products(self.maps, self.shapes, arrays)


def _products(
    maps: AbstractBlockMap, shapes: Sequence[tuple[int, ...]], arrays: list[Array]
) -> list[Array]:
    slices = _slices(maps, shapes, arrays)
    return _shaped(eqx.filter_vmap(lambda one, of_one: one.mv(of_one))(maps, slices), arrays)


def _slices(
    maps: AbstractBlockMap, shapes: Sequence[tuple[int, ...]], arrays: list[Array]
) -> list[Array]:
    """The arrays as stacked slices, [L, *shape]."""
    length = len(jtu.tree_leaves(eqx.filter(maps, eqx.is_array))[0])
    return [array.reshape(length, *shape) for array, shape in zip(arrays, shapes, strict=True)]


def _shaped(slices: list[Array], arrays: list[Array]) -> list[Array]:
    return [found.reshape(array.shape) for found, array in zip(slices, arrays, strict=True)]
