import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Scalar

from .._solved import Solved
from ._base import AbstractBlock, AbstractBlockMap


class StackedBlock(AbstractBlock):
    """One block for each slice of stacked weights [L, ...].

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
        each = eqx.filter_vmap(lambda block, b: block.solve(b, damping))(self.blocks, arrays)
        return Solved(each.direction, jnp.sum(each.metric), jnp.sum(each.squared_residual))


class _StackedMap(AbstractBlockMap):
    maps: AbstractBlockMap

    def mv(self, arrays: list[Array]) -> list[Array]:
        return _products(self.maps, arrays)


def _products(maps: AbstractBlockMap, arrays: list[Array]) -> list[Array]:
    return eqx.filter_vmap(lambda one, of_one: one.mv(of_one))(maps, arrays)
