from typing import Any

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, PyTree, Scalar

from ..linearisation import LinearisedTerm
from ._base import AbstractPart, Slab


class ChunkedPart(AbstractPart):
    """Weights without a structure, whose rows do not fit in memory and are recomputed.

    The rows are per-example gradients of S_iᵀ z_i, computed by automatic differentiation for
    `chunk` examples at a time. This is exact for every model. It computes all rows once per block
    of AAᵀ.

    - `terms`: the terms of the linearisation; `columns`: the columns of S, scaled, per term.
    - `weights`: the weights of this part; `others`: the other trainable weights. Each pytree has
      None where the other has an array.
    - `image`: the vector to project, in a pytree like `weights`; None if there is no vector.
    """

    terms: tuple[LinearisedTerm, ...]
    columns: tuple[Float[Array, "_r _n *_shape"], ...]
    weights: PyTree[Array]
    others: PyTree[Array]
    image: PyTree[Array] | None
    chunk: int = eqx.field(static=True)

    def block(self, a: Slab, b: Slab) -> Float[Array, "ra na rb nb"] | None:
        second = self.rows(b).reshape(b.size, -1)
        products = self._map(a, lambda rows: rows @ second.T)  # [examples, columns, b]
        return jnp.swapaxes(products, 0, 1).reshape(*a.shape, *b.shape)

    def project(self) -> tuple[tuple[Float[Array, "_r _n"] | None, ...], Scalar]:
        image = self.ravelled_image()
        assert image is not None, "made without a vector to project"
        shares = []
        for t, columns in enumerate(self.columns):
            whole = Slab(t, (0, columns.shape[0]), (0, columns.shape[1]))
            shares.append(self._map(whole, lambda rows: rows @ image).T)
        return tuple(shares), jnp.vdot(image, image)

    def ravelled_image(self) -> Float[Array, " p"] | None:
        """The vector to project, in the precision of the outputs."""
        if self.image is None:
            return None
        return jfu.ravel_pytree(self.image)[0].astype(self.columns[0].dtype)

    def rows(self, slab: Slab) -> Float[Array, "columns examples p"]:
        """The rows of a slab."""
        return jnp.swapaxes(self._map(slab, lambda rows: rows), 0, 1)

    def _map(self, slab: Slab, fn: Any) -> Array:
        """`fn` of the rows [columns, p] of every example of a slab, stacked."""
        term = self.terms[slab.term]
        examples = slice(*slab.examples)
        columns = jnp.swapaxes(slab.of(self.columns[slab.term]), 0, 1)
        inputs = jtu.tree_map(lambda leaf: leaf[examples], (term.inputs, term.keys))

        def one(example: Any) -> Array:
            cotangents, (x, key) = example
            _, pullback = jax.vjp(
                lambda weights: term.example(eqx.combine(weights, self.others), x, key),
                self.weights,
            )

            def row(column: Array) -> Float[Array, " p"]:
                return jfu.ravel_pytree(pullback(column)[0])[0].astype(column.dtype)

            return fn(jax.vmap(row)(cotangents))

        return jax.lax.map(one, (columns, inputs), batch_size=self.chunk)
