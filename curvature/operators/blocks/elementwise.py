from jaxtyping import Array, Float, Scalar

from .._solved import Solved, solved_by_product
from ._base import AbstractBlock


class ElementwiseBlock(AbstractBlock):
    """A diagonal matrix.

    - `values`: its entries, one array per weight, shaped as the weight.
    """

    values: list[Float[Array, "..."]]

    @property
    def kind(self) -> str:
        return "diagonals"

    def mv(self, arrays: list[Array]) -> list[Array]:
        return [value * array for value, array in zip(self.values, arrays, strict=True)]

    def diagonal(self) -> list[Array]:
        return self.values

    def inverse(self, damping: Scalar) -> AbstractBlock:
        return ElementwiseBlock(
            [1 / (value + damping.astype(value.dtype)) for value in self.values]
        )

    def solve(self, arrays: list[Array], damping: Scalar) -> Solved:
        d = self.inverse(damping).mv(arrays)
        return solved_by_product(self.mv, damping, arrays, d)
