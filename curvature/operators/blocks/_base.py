import abc

import equinox as eqx
from jaxtyping import Array, Float, Scalar

from .._solved import Solved


class AbstractBlockMap(eqx.Module):
    """A linear map on some of the weights, given as a list of arrays."""

    @abc.abstractmethod
    def mv(self, arrays: list[Float[Array, "..."]]) -> list[Float[Array, "..."]]:
        """The product with a vector."""


class AbstractBlock(AbstractBlockMap):
    """A symmetric positive semidefinite matrix on some weights."""

    @property
    @abc.abstractmethod
    def kind(self) -> str:
        """The name of this kind of block, in the plural."""

    @property
    def has_rows(self) -> bool:
        """Whether the block holds rows, or inputs and cotangents that rows are made of."""
        return False

    @abc.abstractmethod
    def diagonal(self) -> list[Float[Array, "..."]]:
        """The diagonal, in the shapes of the weights."""

    @abc.abstractmethod
    def inverse(self, damping: Scalar) -> AbstractBlockMap:
        """(C + λI)⁻¹ for λ > 0; all factorisations are computed here, once."""

    @abc.abstractmethod
    def solve(self, arrays: list[Float[Array, "..."]], damping: Scalar) -> Solved:
        """Solves (C + λI) d = b, for the arrays of b."""

    def solve_gradient(self, arrays: list[Float[Array, "..."]], damping: Scalar) -> Solved:
        """Solves for b = ∇L; a block that can solve without the arrays need not use `arrays`."""
        return self.solve(arrays, damping)
