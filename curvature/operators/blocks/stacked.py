import equinox as eqx
import jax.tree_util as jtu
from jaxtyping import Array, Scalar

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


class _StackedMap(AbstractBlockMap):
    maps: AbstractBlockMap

    def mv(self, arrays: list[Array]) -> list[Array]:
        return _products(self.maps, arrays)


def _products(maps: AbstractBlockMap, arrays: list[Array]) -> list[Array]:
    length = len(jtu.tree_leaves(eqx.filter(maps, eqx.is_array))[0])
    slices = [array.reshape(length, -1) for array in arrays]
    made = eqx.filter_vmap(lambda one, of_one: one.mv(of_one))(maps, slices)
    return [found.reshape(array.shape) for found, array in zip(made, arrays, strict=True)]
