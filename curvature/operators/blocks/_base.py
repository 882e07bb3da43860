import abc

import equinox as eqx
from jaxtyping import Array, Float, Scalar

from .._solved import Solved


class AbstractBlockMap(eqx.Module):
    """A linear map on some weights, whose arrays come as a list."""

    @abc.abstractmethod
    def mv(self, arrays: list[Float[Array, "..."]]) -> list[Float[Array, "..."]]:
        """The product with a vector."""


class AbstractBlock(AbstractBlockMap):
    """A symmetric positive semidefinite matrix on some weights."""

    @property
    @abc.abstractmethod
    def kind(self) -> str:
        """What such blocks are called, in the plural."""

    @property
    def has_rows(self) -> bool:
        """Whether it holds rows, or the inputs and cotangents that they are made of."""
        return False

    @abc.abstractmethod
    def diagonal(self) -> list[Float[Array, "..."]]:
        """The diagonal, shaped as the weights are."""

    @abc.abstractmethod
    def inverse(self, damping: Scalar) -> AbstractBlockMap:
        """(C + λI)⁻¹ for λ > 0. Whatever has to be factorised is, here and once."""

    @abc.abstractmethod
    def solve(self, arrays: list[Float[Array, "..."]], damping: Scalar) -> Solved:
        """Solves (C + λI) d = b, for the arrays of b."""

    def solve_gradient(self, arrays: list[Float[Array, "..."]], damping: Scalar) -> Solved:
        """The same for the gradient of the loss; a block that knows it need not use its arrays."""
        return self.solve(arrays, damping)
