import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from ...rows import Factor, LowerBlocks, factorise
from .._solved import Solved, solved_by_product
from ._base import AbstractBlock, AbstractBlockMap
from .layouts import Ravelled


class DenseBlock(AbstractBlock):
    """A dense matrix on a few weights, which are ravelled one after another.

    If C + λI is numerically singular, a somewhat larger λ is used for the inverse, see `factorise`.
    """

    matrix: Float[Array, "p p"]
    layout: Ravelled = eqx.field(static=True)

    @property
    def kind(self) -> str:
        return "exact blocks"

    def mv(self, arrays: list[Array]) -> list[Array]:
        return self.layout.split(self.matrix @ self.layout.join(arrays))

    def diagonal(self) -> list[Array]:
        return self.layout.split(jnp.diagonal(self.matrix))

    def inverse(self, damping: Scalar) -> AbstractBlockMap:
        blocks = LowerBlocks.of(self.matrix)
        damping = damping.astype(self.matrix.dtype)
        return _DenseInverse(factorise(blocks, damping, blocks.norm()), self.layout)

    def solve(self, arrays: list[Array], damping: Scalar) -> Solved:
        d = self.inverse(damping).mv(arrays)
        return solved_by_product(self.mv, damping, arrays, d)


class _DenseInverse(AbstractBlockMap):
    factor: Factor
    layout: Ravelled = eqx.field(static=True)

    def mv(self, arrays: list[Array]) -> list[Array]:
        return self.layout.split(self.factor.solve(self.layout.join(arrays)))
