import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from ._base import AbstractPart, Slab, row_products


class HeldPart(AbstractPart):
    """Weights whose rows are held in memory, one entry per row and weight.

    - `rows`: the rows per term; None if the term does not use the weights.
    - `image`: the weights' part of the vector to project; None if there is no vector.
    """

    rows: tuple[Float[Array, "_r _n _p"] | None, ...]
    image: Float[Array, " p"] | None

    def block(self, a: Slab, b: Slab) -> Float[Array, "ra na rb nb"] | None:
        first, second = self.rows[a.term], self.rows[b.term]
        if first is None or second is None:
            return None
        return row_products(a.of(first), b.of(second))

    def project(self) -> tuple[tuple[Float[Array, "_r _n"] | None, ...], Scalar]:
        assert self.image is not None, "made without a vector to project"
        shares = tuple(None if rows is None else rows @ self.image for rows in self.rows)
        return shares, jnp.vdot(self.image, self.image)
