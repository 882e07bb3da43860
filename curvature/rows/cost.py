from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array

from ..linearisation import LinearisedTerm
from .layout import HELD_BYTES, Layout, Way
from .operations import operations
from .recognition import AbstractMatrixUse, Unused, Use

# Gram matrix, its factor, and what factorising takes, in whole m × m matrices.
_SQUARES = 4


@dataclass(frozen=True)
class Cost:
    """What a gradient, the dense C = AᵀA, and the rows A with AAᵀ, are estimated to cost.

    - `gradient`: operations of a gradient of the loss.
    - `by_products`: operations of C made of P products with it.
    - `by_rows`: operations of C made of rows from automatic differentiation.
    - `gram`: operations of the rows and of AAᵀ, beyond those of a gradient.
    - `nbytes`: the memory of AAᵀ, of its factor, and of the rows that are held.
    """

    gradient: int
    by_products: int
    by_rows: int
    gram: int
    nbytes: int


def cost_of(layout: Layout) -> Cost:
    """The estimate, from shapes alone."""
    m, terms = layout.size, layout.linearisation.terms
    nbytes = _SQUARES * m**2 * max(weight.dtype.itemsize for weight in layout.weights)
    gradient, gram, made, held, general = 0, 0, 0, 0, 0
    for term, tap, rows in zip(terms, layout.taps, layout.per_term, strict=True):
        whole = _gradient(term, layout.linearisation.params)
        gradient += term.size * whole
        made += rows * whole
        # A backward pass that stops at the layers' outputs leaves out one product per weight.
        gram += (rows + term.size) * max(whole - 2 * tap.operations(), 0)
        nbytes += 2 * rows * term.outputs[0].nbytes
    examples = sum(term.size for term in terms)
    for j, (weight, way) in enumerate(zip(layout.weights, layout.ways, strict=True)):
        uses = [tap.uses[j] for tap in layout.taps]
        if way is Way.DENSE:
            out, size = _sides(weight, uses)
            gram += m**2 * (out + 1) + examples**2 * size
            nbytes += m * out * weight.dtype.itemsize
        elif way is Way.HELD:
            gram += (m**2 + 2 * m * max(map(_positions, uses))) * weight.size
            held += m * weight.nbytes
        elif way is Way.GENERAL:
            gram += m**2 * weight.size
            general += m * weight.nbytes
    # Rows that do not fit are made anew for every block that they are multiplied with.
    gram += made * -(-general // HELD_BYTES)
    parameters = sum(weight.size for weight in layout.weights)
    return Cost(
        gradient=gradient,
        by_products=parameters * gradient,
        by_rows=made + 2 * m * parameters**2,
        gram=gram,
        nbytes=nbytes + held + min(general, HELD_BYTES),
    )


def _gradient(term: LinearisedTerm, params: Any) -> int:
    """Operations of the gradient of one example."""
    example = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype),
        (term.inputs, term.targets, term.keys),
    )

    def loss(params: Any, x: Any, y: Any, key: Any) -> Array:
        return term.likelihood.nll(term.example(params, x, key), y)

    return operations(jax.make_jaxpr(jax.grad(loss))(params, *example).jaxpr)


def _positions(use: Use | Unused | None) -> int:
    return use.positions if isinstance(use, AbstractMatrixUse) else 1


def _sides(weight: Array, uses: Sequence[Use | Unused | None]) -> tuple[int, int]:
    """The numbers of outputs and inputs of a matrix."""
    transposed = any(isinstance(use, AbstractMatrixUse) and use.transposed for use in uses)
    rows, columns = weight.shape
    return (columns, rows) if transposed else (rows, columns)
