"""From a linearisation and its factors to the rows of C = AᵀA."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, Float, PyTree

from ..linearisation import Linearisation
from ._base import AbstractPart, Slab
from .chunked import ChunkedPart
from .dense import DensePart
from .held import HeldPart
from .layout import HELD_BYTES, Layout, Way
from .rows import Rows
from .taps import Seen


def columns_of(
    linearisation: Linearisation, factors: tuple[lx.AbstractLinearOperator, ...]
) -> tuple[Float[Array, "_r _n *_shape"], ...]:
    """The columns √(weight_t/n_t) S_i e_k, as cotangents of the outputs, per term."""
    columns = []
    for factor, term in zip(factors, linearisation.terms, strict=True):
        # The count of examples is given, since a factor without arrays does not tell it.
        examples = len(term.outputs)
        matrices = eqx.filter_vmap(lambda S: S.as_matrix(), axis_size=examples)(factor)  # [n, c, r]
        scaled = jnp.sqrt(term.scale) * jnp.moveaxis(matrices, -1, 0)
        columns.append(scaled.reshape(-1, *term.outputs.shape))
    return tuple(columns)


def rows_of(
    layout: Layout,
    columns: tuple[Float[Array, "_r _n *_shape"], ...],
    cotangents: tuple[Float[Array, "..."], ...] | None = None,
) -> Rows:
    """The rows A of C = AᵀA: √(weight_t/n_t) S_ikᵀ J_i for column k of S_i, example i, term t.

    Nothing of the size of A is made for a dense layer's weight; the rows of what else has a
    structure (see `recognise`) are held where they fit; those of the rest are made by automatic
    differentiation, a bounded number at a time.

    **Arguments:** `layout`, see `layout_of`; `columns`, see `columns_of`; `cotangents`, of the
    outputs, for which the result can `project` Jᵀ cotangents.
    """
    linearisation, weights, ways = layout.linearisation, layout.weights, layout.ways
    wanted = [j for j, way in enumerate(ways) if way in (Way.DENSE, Way.HELD)]
    seen = [
        tap.run(column, cotangent, wanted)
        for tap, column, cotangent in zip(
            layout.taps, columns, cotangents or [None] * len(columns), strict=True
        )
    ]
    projected = None if cotangents is None else linearisation.vjp(cotangents)
    images = [None] * len(weights) if projected is None else jtu.tree_leaves(projected)
    parts: list[AbstractPart] = []
    for j in wanted:
        of_terms = [found.get(j) for found in seen]
        if ways[j] is Way.DENSE:
            parts.append(_dense(of_terms))
        else:
            rows = tuple(None if found is None else found.rows(weights[j]) for found in of_terms)
            image = images[j]
            parts.append(HeldPart(rows, None if image is None else image.ravel()))
    # Weights in half precision are added up in the precision of the outputs.
    parts = jtu.tree_map(lambda array: array.astype(columns[0].dtype), parts)
    most_rows = layout.size
    if Way.GENERAL in ways:
        part, most_rows = _general(layout, columns, projected)
        parts.append(part)
    return Rows(linearisation, columns, tuple(parts), max(most_rows, 1))


def _dense(seen: Sequence[Seen | None]) -> DensePart:
    return DensePart(
        deltas=tuple(None if s is None else s.cotangents()[:, :, 0] for s in seen),
        images=tuple(
            None if s is None or (image := s.image_cotangents()) is None else image[:, 0]
            for s in seen
        ),
        inputs=tuple(None if s is None else s.inputs()[:, 0] for s in seen),
    )


def _general(
    layout: Layout, columns: tuple[Array, ...], projected: PyTree[Array] | None
) -> tuple[AbstractPart, int]:
    """The part of the weights without a structure, and how many rows may be made at a time."""
    linearisation = layout.linearisation
    treedef = jtu.tree_structure(linearisation.params)
    mask = jtu.tree_unflatten(treedef, [way is Way.GENERAL for way in layout.ways])
    weights, others = eqx.partition(linearisation.params, mask)
    bytes_per_row = sum(leaf.nbytes for leaf in jtu.tree_leaves(weights))
    most_rows = HELD_BYTES // (2 * bytes_per_row)
    widest = max(column.shape[0] for column in columns)
    part = ChunkedPart(
        terms=linearisation.terms,
        columns=columns,
        weights=weights,
        others=others,
        image=None if projected is None else eqx.filter(projected, mask),
        chunk=max(1, most_rows // widest),
    )
    if layout.size > most_rows:
        return part, most_rows
    sizes = [column.shape[:2] for column in columns]
    rows = tuple(part.rows(Slab(t, (0, r), (0, n))) for t, (r, n) in enumerate(sizes))
    return HeldPart(rows, part.ravelled_image()), layout.size
