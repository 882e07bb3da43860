"""Sums over the rows A of C = AᵀA, computed by automatic differentiation in chunks of examples."""

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

# About this many bytes of rows are computed at a time, but at least the rows of one example.
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
    """The sum `fn` over the rows √scale_i S_ikᵀ J_i of all terms.

    **Arguments:** `fn`, maps some of the rows to a sum over these rows; `wanted`, the numbers of
    the weights whose part of the rows is computed, by default all.
    """
    totals = []
    for term, of_example, examples in _examples(linearisation, factors, wanted):

        def of_chunk(some: Any, of_example: Any = of_example) -> PyTree[Array]:
            rows = eqx.filter_vmap(lambda example: of_example(example))(some)
            return fn(rows.reshape(-1, rows.shape[-1]))

        most = linearisation.micro_batch or term.size
        chunk = max(1, _CHUNK_BYTES // _bytes_per_example(of_example, examples))
        totals.append(sum_over_chunks(of_chunk, examples, term.size, min(chunk, most)))
    return jtu.tree_map(lambda *of_terms: sum(of_terms[1:], of_terms[0]), *totals)


def rows_for(
    linearisation: AbstractLinearisation, factors: _Factors, wanted: Sequence[int]
) -> Float[Array, "m p"]:
    """The part of the rows that belongs to the `wanted` weights.

    In each term the rows are ordered by example, then by column of S.
    """
    found = []
    for _, of_example, examples in _examples(linearisation, factors, wanted):
        rows = eqx.filter_vmap(lambda example, of_example=of_example: of_example(example))(examples)
        found.append(rows.reshape(-1, rows.shape[-1]))
    return jnp.concatenate(found)


def _examples(
    linearisation: AbstractLinearisation, factors: _Factors, wanted: Sequence[int] | None
) -> list[tuple[LinearisedTerm, Callable[[Any], Array], PyTree]]:
    """Per term: a function that computes the rows of one example, and all examples' arguments."""
    leaves, treedef = jtu.tree_flatten(linearisation.params)
    mask = [wanted is None or j in wanted for j in range(len(leaves))]
    weights, others = eqx.partition(linearisation.params, treedef.unflatten(mask))
    found = []
    for term, factor in zip(linearisation.terms, factors, strict=True):
        scales = jnp.broadcast_to(term.scale_root, (term.size,))
        examples = factor, scales, term.inputs, term.keys
        found.append((term, eqx.Partial(_rows, term, weights, others), examples))
    return found


def _rows(
    term: LinearisedTerm, weights: PyTree, others: PyTree, example: Any
) -> Float[Array, "r P"]:
    """The rows √scale e_kᵀ Sᵀ J of one example, in the wider precision of z and the weights."""
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
    """The sum of `fn` over chunks of `size` examples, for n examples [n, ...]."""
    if size == n:
        return fn(examples)
    arrays, static = eqx.partition(examples, eqx.is_array)

    def chunk(indices: Array) -> PyTree[Array]:
        some = jtu.tree_map(lambda leaf: leaf[indices], arrays)
        return fn(eqx.combine(some, static))

    # The first chunk starts the carry of the loop. It is the smaller last one, if there is one.
    whole, rest = divmod(n, size)
    total = chunk(jnp.arange(whole * size, n)) if rest else chunk(jnp.arange(size))
    parts = jnp.arange(whole * size).reshape(whole, size)[0 if rest else 1 :]
    total, _ = jax.lax.scan(
        lambda so_far, part: (jtu.tree_map(jnp.add, so_far, chunk(part)), None), total, parts
    )
    return total
