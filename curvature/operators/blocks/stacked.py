import equinox as eqx
from jaxtyping import Array, Scalar

from ._base import AbstractBlock


class StackedBlock(AbstractBlock):
    """One block for each slice of stacked weights [L, ...].

    - `blocks`: all of them as one, whose arrays have a leading axis L.
    """

    blocks: AbstractBlock

    def mv(self, arrays: list[Array]) -> list[Array]:
        return eqx.filter_vmap(lambda block, one: block.mv(one))(self.blocks, arrays)

    def diagonal(self) -> list[Array]:
        return eqx.filter_vmap(lambda block: block.diagonal())(self.blocks)

    def inverse_mv(self, damping: Scalar, arrays: list[Array]) -> list[Array]:
        return eqx.filter_vmap(lambda block, one: block.inverse_mv(damping, one))(
            self.blocks, arrays
        )
