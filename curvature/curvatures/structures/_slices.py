"""Blocks of stacked weights, one per slice, and the eigendecompositions for these blocks."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, PyTree

from ...layers import MatrixLayer
from ...linearisation import AbstractLinearisation
from ...operators.blocks import AbstractBlock, Joined, Ravelled, SpectralBlock, StackedBlock

_NO_DERIVATIVE = (
    "`KFAC` has no derivative in the weights, because eigenvectors have no derivative where "
    "eigenvalues are equal. To differentiate a step, use the curvature without a structure, "
    "`BlockDiagonal(of)` or `Diagonal(of)`."
)


class Spectrum(eqx.Module):
    """The eigenvectors and the eigenvalues of a matrix, per slice."""

    vectors: Float[Array, "L p p"]
    values: Float[Array, "L p"]


def spectrum(matrices: Float[Array, "L p p"]) -> Spectrum:
    """Eigenvectors and eigenvalues of positive semidefinite matrices.

    Eigenvalues that are negative by rounding become 0. Entries above the diagonal are not read.

    The matrices are decomposed one at a time. For a batch, LAPACK would use threads on which other
    calls may be waiting.
    """
    if len(matrices) == 1:
        values, vectors = (found[None] for found in _eigh(matrices[0]))
    else:
        values, vectors = jax.lax.map(_eigh, matrices)
    return Spectrum(vectors, jnp.maximum(values, 0))


@jax.custom_jvp
def _eigh(matrix: Float[Array, "p p"]) -> tuple[Float[Array, " p"], Float[Array, "p p"]]:
    vectors, values = jax.lax.linalg.eigh(matrix, lower=True, symmetrize_input=False)
    return values, vectors


@_eigh.defjvp
def _raise_no_derivative(primals: Any, tangents: Any) -> Any:
    del primals, tangents
    raise ValueError(_NO_DERIVATIVE)


def spectral_block(layout: Joined | Ravelled) -> Callable[[Spectrum], SpectralBlock]:
    """A function from the spectrum of one slice to the block of this slice."""
    return lambda spectrum: SpectralBlock(spectrum.vectors, spectrum.values, layout)


def per_slice(fn: Callable[..., Any], *stacked: PyTree[Array]) -> Any:
    """Applies `fn` to each slice of arrays [L, ...]; for L = 1 without `vmap`.

    XLA transposes the operands of a batch of one matrix product. For a single product without a
    batch axis XLA does not.
    """
    if len(jtu.tree_leaves(stacked)[0]) > 1:
        return jax.vmap(fn)(*stacked)
    found = fn(*jtu.tree_map(lambda leaf: leaf[0], stacked))
    return jtu.tree_map(lambda leaf: leaf[None], found)


def of_slices(
    make: Callable[[Any], AbstractBlock],
    stacked: PyTree[Array],
    length: int | None,
    layout: Joined | Ravelled,
) -> AbstractBlock:
    """The blocks that `make` returns for the slices, or for the only slice if nothing is stacked.

    **Arguments:** `stacked`, arrays [L, ...], with L = 1 if `length` is None; `layout`, the layout
    of the weights of one slice.
    """
    if length is None:
        return make(jtu.tree_map(lambda leaf: leaf[0], stacked))
    return StackedBlock(eqx.filter_vmap(make)(stacked), layout.shapes)


def is_made_of(block: AbstractBlock, kind: type[AbstractBlock]) -> bool:
    """Whether `block` is a block of this kind, or a stack of such blocks."""
    return isinstance(block.blocks if isinstance(block, StackedBlock) else block, kind)


def joined_layout(layer: MatrixLayer, linearisation: AbstractLinearisation) -> Joined:
    """The layout that joins a layer's weights into one matrix, per slice if they are stacked."""
    leaves = jtu.tree_leaves(linearisation.params)
    return Joined(layer.slice_shapes([leaves[j].shape for j in layer.leaves]), layer.transposed)
