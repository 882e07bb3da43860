from jaxtyping import Array, Float, Scalar

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
