import abc

import equinox as eqx
from jaxtyping import Array, Float, Scalar


class AbstractBlock(eqx.Module):
    """A symmetric positive semidefinite matrix on some weights, whose arrays come as a list."""

    @abc.abstractmethod
    def mv(self, arrays: list[Float[Array, "..."]]) -> list[Float[Array, "..."]]:
        """The product with a vector."""

    @abc.abstractmethod
    def diagonal(self) -> list[Float[Array, "..."]]:
        """The diagonal, shaped as the weights are."""

    @abc.abstractmethod
    def inverse_mv(
        self, damping: Scalar, arrays: list[Float[Array, "..."]]
    ) -> list[Float[Array, "..."]]:
        """(C + λI)⁻¹ times a vector, for λ > 0."""
