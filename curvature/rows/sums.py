"""Sums over the rows of C = AᵀA, made by automatic differentiation for some examples at a time."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, Float, PyTree

from .._trees import work_dtype
from ..linearisation import AbstractLinearisation, LinearisedTerm

_Factors = tuple[lx.AbstractLinearOperator, ...]

# Rows of about so many bytes are made at a time, those of one example at least.
_CHUNK_BYTES = 2**26


def diagonal_of(linearisation: AbstractLinearisation, factors: _Factors) -> Float[Array, " P"]:
    """Σ_t Σ_i scale_i Σ_k (J_iᵀ S_i e_k)²."""
    return sum_over_rows(linearisation, factors, lambda rows: jnp.sum(rows**2, axis=0))


def matrix_of(linearisation: AbstractLinearisation, factors: _Factors) -> Float[Array, "P P"]:
    """Σ_t Σ_i scale_i J_iᵀ S_i S_iᵀ J_i, one matrix product per chunk of rows."""
    return sum_over_rows(linearisation, factors, lambda rows: rows.T @ rows)


def sum_over_rows(
    linearisation: AbstractLinearisation,
    factors: _Factors,
    fn: Callable[[Float[Array, "m P"]], PyTree[Array]],
    wanted: Sequence[int] | None = None,
) -> PyTree[Array]:
    """`fn`, a sum over the rows that it is given, of the rows √scale_i S_ikᵀ J_i of all terms.

    **Arguments:** `wanted`, the numbers of the weights whose part of the rows is made; default all.
    """
    totals = []
    for term, of_example, examples in _examples(linearisation, factors, wanted):

        def of_chunk(some: Any, of_example: Any = of_example) -> PyTree[Array]:
            rows = eqx.filter_vmap(lambda example: of_example(example))(some)
            return fn(rows.reshape(-1, rows.shape[-1]))

        chunk = max(1, _CHUNK_BYTES // _bytes_per_example(of_example, examples))
        totals.append(sum_over_chunks(of_chunk, examples, term.size, min(chunk, term.size)))
    return jtu.tree_map(lambda *of_terms: sum(of_terms[1:], of_terms[0]), *totals)


def rows_for(
    linearisation: AbstractLinearisation, factors: _Factors, wanted: Sequence[int]
) -> Float[Array, "m p"]:
    """The part of the rows that belongs to some weights, for each example all columns of S."""
    found = []
    for _, of_example, examples in _examples(linearisation, factors, wanted):
        rows = eqx.filter_vmap(lambda example, of_example=of_example: of_example(example))(examples)
        found.append(rows.reshape(-1, rows.shape[-1]))
    return jnp.concatenate(found)


def _examples(
    linearisation: AbstractLinearisation, factors: _Factors, wanted: Sequence[int] | None
) -> list[tuple[LinearisedTerm, Callable[[Any], Array], PyTree]]:
    """Per term: what makes the rows of one example, and what it takes of all of them."""
    leaves, treedef = jtu.tree_flatten(linearisation.params)
    mask = [wanted is None or j in wanted for j in range(len(leaves))]
    weights, others = eqx.partition(linearisation.params, treedef.unflatten(mask))
    found = []
    for term, factor in zip(linearisation.terms, factors, strict=True):
        scales = jnp.broadcast_to(jnp.sqrt(term.scale), (term.size,))
        examples = factor, scales, term.inputs, term.keys
        found.append((term, eqx.Partial(_rows, term, weights, others), examples))
    return found


def _rows(
    term: LinearisedTerm, weights: PyTree, others: PyTree, example: Any
) -> Float[Array, "r P"]:
    """The rows √scale e_kᵀ Sᵀ J of one example, in the precision of the wider of z and weights."""
    factor, scale, x, key = example
    z, pullback = jax.vjp(lambda w: term.example(eqx.combine(w, others), x, key), weights)
    columns = factor.as_matrix().T.reshape(-1, *z.shape) * scale.astype(z.dtype)
    dtype = work_dtype(z, weights)

    def row(column: Array) -> Float[Array, " P"]:
        return jfu.ravel_pytree(pullback(column)[0])[0].astype(dtype)

    return jax.vmap(row)(columns)


def _bytes_per_example(of_example: Callable[[Any], Array], examples: PyTree) -> int:
    made = eqx.filter_eval_shape(eqx.filter_vmap(lambda example: of_example(example)), examples)
    return math.prod(made.shape[1:]) * made.dtype.itemsize


def sum_over_chunks(
    fn: Callable[[Any], PyTree[Array]], examples: PyTree, n: int, size: int
) -> PyTree[Array]:
    """Σ fn(some examples), `size` of them at a time, of n examples [n, ...]."""
    arrays, static = eqx.partition(examples, eqx.is_array)

    def chunk(indices: Array) -> PyTree[Array]:
        some = jtu.tree_map(lambda leaf: leaf[indices], arrays)
        return fn(eqx.combine(some, static))

    whole, rest = divmod(n, size)
    total = chunk(jnp.arange(whole * size, n)) if rest else chunk(jnp.arange(size))
    parts = jnp.arange(whole * size).reshape(whole, size)[0 if rest else 1 :]
    if len(parts):
        total, _ = jax.lax.scan(
            lambda so_far, part: (jtu.tree_map(jnp.add, so_far, chunk(part)), None), total, parts
        )
    return total
