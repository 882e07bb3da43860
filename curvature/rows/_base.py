import abc
from dataclasses import dataclass

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from .._devices import everywhere, shared


@dataclass(frozen=True)
class Slab:
    """Some rows of one term: those of the columns `columns` of S, for the examples `examples`.

    Both are half-open ranges. The rows are in the order of the columns, and for each of them in
    the order of the examples.
    """

    term: int
    columns: tuple[int, int]
    examples: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """How many columns, how many examples."""
        return self.columns[1] - self.columns[0], self.examples[1] - self.examples[0]

    @property
    def size(self) -> int:
        """How many rows."""
        return self.shape[0] * self.shape[1]

    def of(self, array: Float[Array, "r n ..."]) -> Float[Array, "columns examples ..."]:
        """The slab's part of an array that has an entry per row of the term."""
        return array[slice(*self.columns), slice(*self.examples)]


def row_products(
    first: Float[Array, "ra na p"], second: Float[Array, "rb nb p"]
) -> Float[Array, "ra na rb nb"]:
    """The products of some rows with others; every device makes those of a share of examples."""
    # They are slices. A slice of an array that is shared out would be exchanged piece by piece.
    first, second = everywhere((first, second))
    return jnp.einsum("rnp,smp->rnsm", shared(first, axis=1), second)


class AbstractPart(eqx.Module):
    """The columns of A that belong to some of the weights, for all rows of all terms.

    A is the concatenation of its parts: AAᵀ and A v are sums over them. v is the pullback of the
    cotangents that the rows were made with.
    """

    @abc.abstractmethod
    def block(self, a: Slab, b: Slab) -> Float[Array, "ra na rb nb"] | None:
        """This part's share of the products of the rows in `a` with those in `b`; None for 0."""

    @abc.abstractmethod
    def project(self) -> tuple[tuple[Float[Array, "_r _n"] | None, ...], Scalar]:
        """This part's share of A v, per term (None for 0), and of ‖v‖²."""
