import abc
from dataclasses import dataclass

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from .._devices import replicate, shard


@dataclass(frozen=True)
class Slab:
    """Some rows of one term: the rows of the columns `columns` of S and the examples `examples`.

    Both are half-open ranges. The rows are ordered by column, then by example.
    """

    term: int
    columns: tuple[int, int]
    examples: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of columns and of examples."""
        return self.columns[1] - self.columns[0], self.examples[1] - self.examples[0]

    @property
    def size(self) -> int:
        """How many rows."""
        return self.shape[0] * self.shape[1]

    def of(self, array: Float[Array, "r n ..."]) -> Float[Array, "columns examples ..."]:
        """The slab's part of an array with one entry per row of the term."""
        return array[slice(*self.columns), slice(*self.examples)]


def row_products(
    first: Float[Array, "ra na p"], second: Float[Array, "rb nb p"]
) -> Float[Array, "ra na rb nb"]:
    """The inner products of two sets of rows; every device computes a share of the examples."""
    # The arguments are slices, and devices exchange a slice of a distributed array piece by piece.
    # `replicate` gathers them at once.
    first, second = replicate((first, second))
    return jnp.einsum("rnp,smp->rnsm", shard(first, axis=1), second)


class AbstractPart(eqx.Module):
    """The columns of A that belong to some of the weights, for all rows of all terms.

    A is the concatenation of its parts along the weights, so AAᵀ and A v are sums over the parts. v
    is the pullback of the cotangents `image` that `rows_of` was called with.
    """

    @abc.abstractmethod
    def block(self, a: Slab, b: Slab) -> Float[Array, "ra na rb nb"] | None:
        """This part's share of the products of the rows in `a` with those in `b`; None for 0."""

    @abc.abstractmethod
    def project(self) -> tuple[tuple[Float[Array, "_r _n"] | None, ...], Scalar]:
        """This part's share of A v, per term (None for 0), and of ‖v‖²."""
