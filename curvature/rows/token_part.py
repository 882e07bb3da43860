from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, Int, Scalar

from ..layers import Captured, Lookup
from ._base import AbstractPart, Slab
from .stacked import StackedPart
from .tokens import TokenRows, sum_by_token


class TokenPart(AbstractPart):
    """A table whose rows are looked up, at any number of positions.

    One entry per term; None if the term does not use the table:

    - `rows`: the rows for the columns of S.
    - `images`: the cotangents for the vector to project; None if there is no vector.
    """

    rows: tuple[TokenRows | None, ...]
    images: tuple[Float[Array, "_n _t out"] | None, ...]

    def block(self, a: Slab, b: Slab) -> Float[Array, "ra na rb nb"] | None:
        first, second = self.rows[a.term], self.rows[b.term]
        if first is None or second is None:
            return None
        return _part(first, a).products(_part(second, b))

    def project(self) -> tuple[tuple[Float[Array, "_r _n"] | None, ...], Scalar]:
        pairs = zip(self.rows, self.images, strict=True)
        tables = [
            sum_by_token(rows.tokens, image, rows.vocabulary)
            for rows, image in pairs
            if rows is not None and image is not None
        ]
        table = sum(tables[1:], tables[0])
        shares = tuple(None if rows is None else rows.mv(table) for rows in self.rows)
        return shares, jnp.vdot(table, table)


def _part(rows: TokenRows, slab: Slab) -> TokenRows:
    tokens = rows.tokens[slice(*slab.examples)]
    return TokenRows(tokens, slab.of(rows.cotangents), rows.vocabulary)


def token_part(found: Sequence[Sequence[Captured]]) -> AbstractPart:
    """The part of a table; the positions of all uses in a term are concatenated."""
    uses = [use for of_term in found for use in of_term]
    assert isinstance(uses[0].use, Lookup)
    vocabulary = uses[0].use.vocabulary

    def of_slice(arrays: tuple[list[tuple[Array, Array] | None], list[Array | None]]) -> TokenPart:
        pairs, images = arrays
        rows = [None if pair is None else TokenRows(*pair, vocabulary) for pair in pairs]
        return TokenPart(tuple(rows), tuple(images))

    arrays = [_rows(of_term) for of_term in found], [_image(of_term) for of_term in found]
    if len(jtu.tree_leaves(arrays)[0]) == 1:
        return of_slice(jtu.tree_map(lambda leaf: leaf[0], arrays))
    return StackedPart(eqx.filter_vmap(of_slice)(arrays))


def _rows(
    uses: Sequence[Captured],
) -> tuple[Int[Array, "L n t"], Float[Array, "L r n t out"]] | None:
    if not uses:
        return None
    tokens = jnp.concatenate([use.tokens() for use in uses], axis=2)
    cotangents = jnp.concatenate([use.cotangents() for use in uses], axis=3)
    return jnp.moveaxis(tokens, 1, 0), jnp.moveaxis(cotangents, 2, 0)


def _image(uses: Sequence[Captured]) -> Float[Array, "L n t out"] | None:
    shares = [share for use in uses if (share := use.image_cotangents()) is not None]
    return jnp.moveaxis(jnp.concatenate(shares, axis=2), 1, 0) if shares else None
