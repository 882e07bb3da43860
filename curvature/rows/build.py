"""From a linearisation and its factors to the rows of C = AᵀA."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, Float, PyTree

from .._devices import replicate
from ..layers import Captured, capture
from ..linearisation import AbstractLinearisation
from ._base import AbstractPart, Slab
from .chunked import ChunkedPart
from .dense import DensePart
from .held import HeldPart
from .layout import HELD_BYTES, Layout, Way
from .rows import Rows
from .stacked import StackedPart
from .token_part import token_part

_Factors = Sequence[lx.AbstractLinearOperator]


def columns_of(
    linearisation: AbstractLinearisation, factors: _Factors
) -> tuple[Float[Array, "_r _n *_shape"], ...]:
    """The columns √scale_i S_i e_k, as cotangents of the outputs, per term."""
    columns = []
    for factor, term in zip(factors, linearisation.terms, strict=True):
        # A factor without arrays has no axis to take the number of examples from.
        matrices = eqx.filter_vmap(lambda S: S.as_matrix(), axis_size=term.size)(factor)
        scale = term.scale_root.astype(matrices.dtype)
        scaled = jnp.moveaxis(scale.reshape(-1, 1, 1) * matrices, -1, 0)  # [r, n, c]
        columns.append(scaled.reshape(-1, *term.outputs.shape))
    return tuple(columns)


def ranks_of(linearisation: AbstractLinearisation, factors: _Factors) -> list[int]:
    """How many columns S has, per term."""
    columns = eqx.filter_eval_shape(columns_of, linearisation, factors)
    return [of_term.shape[0] for of_term in columns]


def rows_of(
    layout: Layout,
    columns: tuple[Float[Array, "_r _n *_shape"], ...],
    image: tuple[Float[Array, "..."], ...] | None = None,
) -> Rows:
    """The rows A of C = AᵀA: √scale_i S_ikᵀ J_i for column k of S_i, example i, term t.

    For a dense layer nothing of the size of A is formed. The rows of other weights with a
    recognised structure (see `layers.recognise`) are held in memory if they fit. The rows of the
    remaining weights are computed by automatic differentiation, a bounded number at a time.

    **Arguments:** `layout`, see `layout_of`; `columns`, see `columns_of`; `image`, cotangents of
    the outputs, so that the result can `project` Jᵀ image.
    """
    linearisation, weights, ways = layout.linearisation, layout.weights, layout.ways
    wanted = [j for j, way in enumerate(ways) if way in (Way.DENSE, Way.TOKENS, Way.HELD)]
    captured = [
        capture(
            term.layers, linearisation.params, term.examples, term.closed_over, column, one, wanted
        )
        for term, column, one in zip(
            linearisation.terms, columns, image or [None] * len(columns), strict=True
        )
    ]
    # For weights whose rows have no product form, the vector to project is the image's pullback.
    projected, images = None, [None] * len(weights)
    if image is not None and any(way in (Way.HELD, Way.GENERAL) for way in ways):
        projected = linearisation.vjp(image)
        images = jtu.tree_leaves(projected)
    parts: list[AbstractPart] = []
    for j in wanted:
        of_terms = [found[j] for found in captured]
        if ways[j] is Way.DENSE:
            parts.append(_dense_part(of_terms, bias=j in layout.partners.values()))
        elif ways[j] is Way.TOKENS:
            parts.append(token_part(of_terms))
        else:
            rows = tuple(_held_rows(found, weights[j]) for found in of_terms)
            of_weight = images[j]
            parts.append(HeldPart(rows, None if of_weight is None else of_weight.ravel()))
    # Products of half-precision weights are summed in the precision of the outputs.
    parts = jtu.tree_map(lambda array: _as(array, columns[0].dtype), parts)
    parts = replicate(parts)  # since blocks of rows are sliced from them
    most_rows = layout.size
    if Way.GENERAL in ways:
        part, most_rows = _general_part(layout, columns, projected)
        parts.append(part)
    return Rows(linearisation, columns, tuple(parts), max(most_rows, 1))


def _as(array: Array, dtype: Any) -> Array:
    return array.astype(dtype) if eqx.is_inexact_array(array) else array


def _held_rows(found: Sequence[Captured], weight: Array) -> Float[Array, "r n p"] | None:
    """The rows of one weight in one term: the sum over its uses."""
    rows = [of_use.rows(weight) for of_use in found]
    return sum(rows[1:], rows[0]) if rows else None


def _dense_part(found: Sequence[Sequence[Captured]], *, bias: bool) -> AbstractPart:
    """The part of a matrix that is used at most once per term, at one position of each slice."""
    uses = [of_term[0] if of_term else None for of_term in found]
    # The axis of slices comes first: [L, r, n, out], [L, n, out], [L, n, in].
    deltas = [None if u is None else jnp.moveaxis(u.cotangents()[..., 0, :], 2, 0) for u in uses]
    inputs = [None if u is None else jnp.moveaxis(u.inputs()[..., 0, :], 1, 0) for u in uses]
    images = [None if u is None else u.image_cotangents() for u in uses]
    images = [None if i is None else jnp.moveaxis(i[..., 0, :], 1, 0) for i in images]
    arrays = tuple(deltas), tuple(images), replicate(tuple(inputs))
    if len(jtu.tree_leaves(inputs)[0]) > 1:
        return StackedPart(eqx.filter_vmap(lambda a: DensePart(*a, bias=bias))(arrays))
    return DensePart(*jtu.tree_map(lambda leaf: leaf[0], arrays), bias=bias)


def _general_part(
    layout: Layout, columns: tuple[Array, ...], projected: PyTree[Array] | None
) -> tuple[AbstractPart, int]:
    """The part of the weights without a structure, and the most rows to compute at a time."""
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
