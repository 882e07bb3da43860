import functools
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Scalar

from .._devices import replicate
from ..linearisation import AbstractLinearisation
from ._base import AbstractPart, Slab
from .lower_blocks import LowerBlocks
from .width import block_width


class Rows(eqx.Module):
    """The rows A (m × P) of a pullback C = AᵀA, with the operations that a solver needs.

    Row (t, k, i) is √scale_i e_kᵀ S_iᵀ J_i, for term t, column k of S and example i, in
    this order. Vectors in sample space have m = Σ_t r_t n_t entries. A itself is not formed.
    Products with A and Aᵀ use the linearisation. Products of rows with rows use `parts`, each of
    which is for some of the weights.
    """

    linearisation: AbstractLinearisation
    columns: tuple[Float[Array, "_r _n *_shape"], ...]
    parts: tuple[AbstractPart, ...]
    most_rows: int = eqx.field(static=True)  # computed at a time; bounds the memory

    @property
    def size(self) -> int:
        """How many rows there are, m."""
        return sum(columns.shape[0] * columns.shape[1] for columns in self.columns)

    def mv(self, vector: PyTree[Float[Array, "..."]]) -> Float[Array, " m"]:
        """A v, for about half a gradient."""
        return self.combine(self.linearisation.jvp(vector))

    def combine(self, tangents: tuple[Float[Array, "_n *_shape"], ...]) -> Float[Array, " m"]:
        """A v from the changes J v of the outputs."""
        products = [
            jnp.einsum("rnc,nc->rn", _flat(columns), tangent.reshape(len(tangent), -1))
            for columns, tangent in zip(self.columns, tangents, strict=True)
        ]
        return join_terms(products)

    def cotangents(self, u: Float[Array, " m"]) -> tuple[Float[Array, "_n *_shape"], ...]:
        """The cotangents of the outputs whose pullback is Aᵀu: Aᵀu = Jᵀ cotangents."""
        found, offset = [], 0
        for columns in self.columns:
            r, n = columns.shape[:2]
            share = u[offset : offset + r * n].reshape(r, n)
            found.append(jnp.einsum("rnc,rn->nc", _flat(columns), share).reshape(columns.shape[1:]))
            offset += r * n
        return tuple(found)

    def transpose_mv(self, u: Float[Array, " m"]) -> PyTree[Float[Array, "..."]]:
        """Aᵀu, for about half a gradient."""
        return self.linearisation.vjp(self.cotangents(u))

    def gram(self) -> LowerBlocks:
        """AAᵀ; the error of an entry is of the order of eps times the norms of its two rows."""
        slabs = self._slabs()
        return LowerBlocks(
            tuple(
                jnp.concatenate([self._block(below, slab) for below in self._below(slab)])
                for slab in slabs
            )
        )

    def project(self) -> tuple[Float[Array, " m"], Scalar]:
        """A v and ‖v‖² for v = Jᵀ image, with the `image` that `rows_of` was called with."""
        found = [part.project() for part in self.parts]
        shares = []
        for t, columns in enumerate(self.columns):
            none = jnp.zeros(columns.shape[:2], columns.dtype)
            of_term = [share[t] for share, _ in found]
            shares.append(_sum([share for share in of_term if share is not None], none))
        return join_terms(shares), jnp.asarray(sum(squared for _, squared in found))

    def _block(self, a: Slab, b: Slab) -> Float[Array, "a b"]:
        blocks = [part.block(a, b) for part in self.parts]
        none = jnp.zeros((*a.shape, *b.shape), self.columns[0].dtype)
        found = _sum([block for block in blocks if block is not None], none)
        return replicate(found).reshape(a.size, b.size)

    def _slabs(self) -> list[Slab]:
        """All rows, in blocks of nearly equal size."""
        width = min(block_width(self.size), self.most_rows)
        slabs = []
        for t, columns in enumerate(self.columns):
            r, n = columns.shape[:2]
            if n <= width:  # all examples, for as many columns of S as fit
                slabs += [Slab(t, k, (0, n)) for k in _ranges(r, width // n)]
            else:
                per_block = -(-n // -(-n // width))
                aligned = min(-(-per_block // 16) * 16, width)
                slabs += [Slab(t, (k, k + 1), i) for k in range(r) for i in _ranges(n, aligned)]
        return slabs

    def _below(self, slab: Slab) -> list[Slab]:
        """Slabs of all rows from the first row of `slab` on."""
        r, n = self.columns[slab.term].shape[:2]
        rest = [
            Slab(slab.term, slab.columns, (slab.examples[0], n)),
            Slab(slab.term, (slab.columns[1], r), (0, n)),
        ]
        if slab.examples == (0, n):
            rest = [Slab(slab.term, (slab.columns[0], r), (0, n))]
        later = [
            Slab(t, (0, columns.shape[0]), (0, columns.shape[1]))
            for t, columns in enumerate(self.columns)
            if t > slab.term
        ]
        return [part for part in (*rest, *later) if part.size]


def join_terms(of_terms: Sequence[Float[Array, "_r _n"]]) -> Float[Array, " m"]:
    """A vector in sample space, on every device, since blocks are sliced from it."""
    return replicate(jnp.concatenate([of_term.ravel() for of_term in of_terms]))


def _flat(columns: Float[Array, "r n *shape"]) -> Float[Array, "r n c"]:
    return columns.reshape(*columns.shape[:2], -1)


def _ranges(count: int, width: int) -> list[tuple[int, int]]:
    return [(start, min(start + width, count)) for start in range(0, count, width)]


def _sum(arrays: list[Array], none: Array) -> Array:
    """The sum of the arrays, or `none` if there is no array."""
    return functools.reduce(jnp.add, arrays) if arrays else none
