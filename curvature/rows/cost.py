import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array

from ..layers import AbstractMatrixUse, Use, operations
from ..linearisation import AbstractLinearisation, LinearisedTerm
from .layout import HELD_BYTES, Layout, Way

# The memory of the Gram matrix, of its factor and of the factorisation, in m × m matrices.
_SQUARES = 4


@dataclass(frozen=True)
class Cost:
    """Estimated costs of a gradient, of the dense C = AᵀA, and of the rows A with AAᵀ.

    - `gradient`: operations for a gradient of the loss.
    - `by_products`: operations for the matrix C by P products with C.
    - `by_rows`: operations for the matrix C by rows from automatic differentiation.
    - `gram`: operations for the rows and AAᵀ, in addition to those for a gradient.
    """

    gradient: int
    by_products: int
    by_rows: int
    gram: int


def cost_of(layout: Layout) -> Cost:
    """Estimates the costs from shapes alone; traces the gradient of one example."""
    m, terms = layout.size, layout.linearisation.terms
    gradient, gram, made = 0, 0, 0
    for term, rows in zip(terms, layout.per_term, strict=True):
        whole = _of_example(term, layout.linearisation.params)
        gradient += term.size * whole
        made += rows * whole
        # A backward pass that stops at the layers' outputs leaves out one product per weight.
        gram += (rows + term.size) * max(whole - 2 * term.layers.traced.graph.operations, 0)
    examples = sum(term.size for term in terms)
    for j, (weight, way) in enumerate(zip(layout.weights, layout.ways, strict=True)):
        uses = _uses(layout, j)
        if way is Way.DENSE:
            slices, out, size = _sides(weight, uses)
            gram += slices * (m**2 * (out + 1) + examples**2 * size)
        elif way is Way.TOKENS:
            slices, out, vocabulary = _sides(weight, uses)
            gram += slices * (m**2 * out * sum(map(_positions, uses)) + examples * vocabulary)
        elif way is Way.HELD:
            gram += (m**2 + 2 * m * sum(map(_positions, uses))) * weight.size
        elif way is Way.GENERAL:
            gram += m**2 * weight.size
    # Rows that do not fit in memory are recomputed for every block that they are multiplied with.
    gram += made * -(-_bytes(layout, Way.GENERAL) // HELD_BYTES)
    parameters = sum(weight.size for weight in layout.weights)
    return Cost(
        gradient=gradient,
        by_products=parameters * gradient,
        by_rows=made + 2 * m * parameters**2,
        gram=gram,
    )


def gradient_operations(linearisation: AbstractLinearisation) -> int:
    """Operations of a gradient of the loss, from shapes alone."""
    params = linearisation.params
    return sum(term.size * _of_example(term, params) for term in linearisation.terms)


def memory_of(layout: Layout) -> int:
    """The bytes of AAᵀ, of its factor, and of the rows that are held, from shapes alone."""
    m = layout.size
    nbytes = _SQUARES * m**2 * max(weight.dtype.itemsize for weight in layout.weights)
    for term, rows in zip(layout.linearisation.terms, layout.per_term, strict=True):
        of_example = math.prod(term.outputs.shape[1:]) * term.outputs.dtype.itemsize
        nbytes += 2 * rows * of_example
    for j, (weight, way) in enumerate(zip(layout.weights, layout.ways, strict=True)):
        if way is Way.DENSE:
            slices, out, _ = _sides(weight, _uses(layout, j))
            nbytes += slices * m * out * weight.dtype.itemsize
        elif way is Way.TOKENS:
            uses = _uses(layout, j)
            slices, out, _ = _sides(weight, uses)
            nbytes += slices * m * out * sum(map(_positions, uses)) * weight.dtype.itemsize
    return nbytes + _bytes(layout, Way.HELD) + min(_bytes(layout, Way.GENERAL), HELD_BYTES)


def _bytes(layout: Layout, way: Way) -> int:
    """The bytes of the rows of all weights with this `Way`."""
    pairs = zip(layout.weights, layout.ways, strict=True)
    return layout.size * sum(weight.nbytes for weight, of_weight in pairs if of_weight is way)


def _uses(layout: Layout, j: int) -> list[Use]:
    return [use for of_term in layout.uses(j) for use in of_term or ()]


def _of_example(term: LinearisedTerm, params: Any) -> int:
    """Operations of the gradient of one example."""
    example = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype),
        (term.inputs, term.targets, term.keys),
    )

    def loss(params: Any, x: Any, y: Any, key: Any) -> Array:
        return term.likelihood.nll(term.example(params, x, key), y)

    return operations(jax.make_jaxpr(jax.grad(loss))(params, *example).jaxpr)


def _positions(use: Use) -> int:
    return use.positions if isinstance(use, AbstractMatrixUse) else 1


def _sides(weight: Array, uses: Sequence[Use]) -> tuple[int, int, int]:
    """The numbers of slices, outputs and inputs of a matrix."""
    (use, *_) = [use for use in uses if isinstance(use, AbstractMatrixUse)]
    slices = use.groups * (1 if use.length is None else use.length)
    first = weight.shape[0 if use.length is None else 1] // use.groups
    rest = weight.size // (slices * first)
    return (slices, rest, first) if use.transposed else (slices, first, rest)
