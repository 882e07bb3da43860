from jaxtyping import Array, Float, Scalar

from ._base import AbstractBlock


class ElementwiseBlock(AbstractBlock):
    """A diagonal matrix.

    - `values`: its entries, one array per weight, shaped as the weight.
    """

    values: list[Float[Array, "..."]]

    def mv(self, arrays: list[Array]) -> list[Array]:
        return [value * array for value, array in zip(self.values, arrays, strict=True)]

    def diagonal(self) -> list[Array]:
        return self.values

    def inverse_mv(self, damping: Scalar, arrays: list[Array]) -> list[Array]:
        pairs = zip(self.values, arrays, strict=True)
        return [array / (value + damping.astype(value.dtype)) for value, array in pairs]
