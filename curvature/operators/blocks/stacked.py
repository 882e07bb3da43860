import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Scalar

from .._solved import Solved
from ._base import AbstractBlock, AbstractBlockMap


class StackedBlock(AbstractBlock):
    """One block for each of L slices of some weights: [L, ...], or L groups along the first axis.

    - `blocks`: all of them as one, whose arrays have a leading axis L.
    """

    blocks: AbstractBlock

    @property
    def kind(self) -> str:
        return self.blocks.kind

    def mv(self, arrays: list[Array]) -> list[Array]:
        return _products(self.blocks, arrays)

    def diagonal(self) -> list[Array]:
        return eqx.filter_vmap(lambda block: block.diagonal())(self.blocks)

    def inverse(self, damping: Scalar) -> AbstractBlockMap:
        return _StackedMap(eqx.filter_vmap(lambda block: block.inverse(damping))(self.blocks))

    def solve(self, arrays: list[Array], damping: Scalar) -> Solved:
        slices = _slices(self.blocks, arrays)
        each = eqx.filter_vmap(lambda block, b: block.solve(b, damping))(self.blocks, slices)
        d = _whole(each.direction, arrays)
        return Solved(d, jnp.sum(each.metric), jnp.sum(each.squared_residual))


class _StackedMap(AbstractBlockMap):
    maps: AbstractBlockMap

    def mv(self, arrays: list[Array]) -> list[Array]:
        return _products(self.maps, arrays)


def _products(maps: AbstractBlockMap, arrays: list[Array]) -> list[Array]:
    slices = _slices(maps, arrays)
    return _whole(eqx.filter_vmap(lambda one, of_one: one.mv(of_one))(maps, slices), arrays)


def _slices(maps: AbstractBlockMap, arrays: list[Array]) -> list[Array]:
    length = len(jtu.tree_leaves(eqx.filter(maps, eqx.is_array))[0])
    return [array.reshape(length, -1) for array in arrays]


def _whole(slices: list[Array], arrays: list[Array]) -> list[Array]:
    return [found.reshape(array.shape) for found, array in zip(slices, arrays, strict=True)]
