"""From a linearisation and its factors to the rows of C = AᵀA."""

import enum
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
from .recognition import AbstractMatrixUse, Unused, Use
from .rows import Rows
from .taps import Seen, Tapped

# Rows of up to so many bytes in all are held rather than made anew for every block.
_HELD_BYTES = 2**28


class _Way(enum.Enum):
    """How the rows of one weight are made."""

    NONE = enum.auto()  # they are zero
    DENSE = enum.auto()
    HELD = enum.auto()
    GENERAL = enum.auto()


def columns_of(
    linearisation: Linearisation, factors: tuple[lx.AbstractLinearOperator, ...]
) -> tuple[Float[Array, "r n *shape"], ...]:
    """The columns √(weight_t/n_t) S_i e_k, as cotangents of the outputs, per term."""
    columns = []
    for factor, term in zip(factors, linearisation.terms, strict=True):
        matrices = eqx.filter_vmap(lambda S: S.as_matrix())(factor)  # [n, c, r]
        scaled = jnp.sqrt(term.scale) * jnp.moveaxis(matrices, -1, 0)
        columns.append(scaled.reshape(-1, *term.outputs.shape))
    return tuple(columns)


def rows_of(
    linearisation: Linearisation,
    columns: tuple[Float[Array, "r n *shape"], ...],
    cotangents: tuple[Float[Array, "..."], ...] | None = None,
) -> Rows:
    """The rows A of C = AᵀA: √(weight_t/n_t) S_ikᵀ J_i for column k of S_i, example i, term t.

    Nothing of the size of A is made for a dense layer's weight; the rows of what else has a
    structure (see `recognise`) are held where they fit; those of the rest are made by automatic
    differentiation, a bounded number at a time.

    **Arguments:** `columns`, see `columns_of`; `cotangents`, of the outputs, for which the result
    can `project` Jᵀ cotangents.
    """
    terms, params = linearisation.terms, linearisation.params
    if cotangents is None:
        cotangents = tuple(map(jnp.zeros_like, linearisation.cotangents))
    weights, treedef = jtu.tree_flatten(params)
    taps = [Tapped(term, params) for term in terms]
    ways = _ways(weights, [[tap.uses[j] for tap in taps] for j in range(len(weights))], columns)
    wanted = [j for j, way in enumerate(ways) if way in (_Way.DENSE, _Way.HELD)]
    seen = [
        tap.run(column, cotangent, wanted)
        for tap, column, cotangent in zip(taps, columns, cotangents, strict=True)
    ]
    pulled_back = linearisation.vjp(cotangents)
    image = jtu.tree_leaves(pulled_back)
    parts: list[AbstractPart] = []
    for j in wanted:
        of_terms = [found.get(j) for found in seen]
        if ways[j] is _Way.DENSE:
            parts.append(_dense(of_terms))
        else:
            rows = tuple(None if found is None else found.rows(weights[j]) for found in of_terms)
            parts.append(HeldPart(rows, image[j].ravel()))
    general = jtu.tree_unflatten(treedef, [way is _Way.GENERAL for way in ways])
    most_rows = sum(column.shape[0] * column.shape[1] for column in columns)
    if _Way.GENERAL in ways:
        part, most_rows = _general(linearisation, columns, pulled_back, general)
        parts.append(part)
    return Rows(linearisation, columns, tuple(parts), max(most_rows, 1))


def _ways(
    weights: Sequence[Array],
    uses: Sequence[Sequence[Use | Unused | None]],
    columns: Sequence[Array],
) -> list[_Way]:
    """One way per weight, with the rows of small weights held as long as there is room."""
    rows = sum(column.shape[0] * column.shape[1] for column in columns)
    room = _HELD_BYTES
    ways = [_Way.GENERAL] * len(weights)
    for j in sorted(range(len(weights)), key=lambda j: weights[j].size):
        found = [use for use in uses[j] if not isinstance(use, Unused)]
        size = rows * weights[j].nbytes
        if not found:
            ways[j] = _Way.NONE
        elif _is_dense(found):
            ways[j] = _Way.DENSE
        elif None not in found and size <= room:
            ways[j] = _Way.HELD
            room -= size
    return ways


def _is_dense(uses: Sequence[Use | None]) -> bool:
    """Whether every term multiplies one vector per example, from the same side."""
    matrices = [use for use in uses if isinstance(use, AbstractMatrixUse)]
    return (
        len(matrices) == len(uses)
        and all(use.positions == 1 for use in matrices)
        and len({use.transposed for use in matrices}) == 1
    )


def _dense(seen: Sequence[Seen | None]) -> DensePart:
    return DensePart(
        deltas=tuple(None if s is None else s.cotangents()[:, :, 0] for s in seen),
        images=tuple(None if s is None else s.image_cotangents()[:, 0] for s in seen),
        inputs=tuple(None if s is None else s.inputs()[:, 0] for s in seen),
    )


def _general(
    linearisation: Linearisation,
    columns: tuple[Array, ...],
    pulled_back: PyTree[Array],
    mask: PyTree[bool],
) -> tuple[AbstractPart, int]:
    """The part of the weights that `mask` selects, and how many rows may be made at a time."""
    weights, others = eqx.partition(linearisation.params, mask)
    bytes_per_row = sum(leaf.nbytes for leaf in jtu.tree_leaves(weights))
    most_rows = _HELD_BYTES // (2 * bytes_per_row)
    widest = max(column.shape[0] for column in columns)
    part = ChunkedPart(
        terms=linearisation.terms,
        columns=columns,
        weights=weights,
        others=others,
        image=eqx.filter(pulled_back, mask),
        chunk=max(1, most_rows // widest),
    )
    sizes = [column.shape[:2] for column in columns]
    if sum(r * n for r, n in sizes) > most_rows:
        return part, most_rows
    rows = tuple(part.rows(Slab(t, (0, r), (0, n))) for t, (r, n) in enumerate(sizes))
    image = [leaf.ravel() for leaf in jtu.tree_leaves(part.image)]
    return HeldPart(rows, jnp.concatenate(image)), sum(r * n for r, n in sizes)
