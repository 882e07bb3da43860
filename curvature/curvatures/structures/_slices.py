"""Blocks of stacked weights, one for each slice, and the eigenvectors that they are made of."""

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
    "`KFAC` has no derivative in the weights: its eigenvectors have none where eigenvalues are "
    "equal. To differentiate a step take the curvature without a structure, `BlockDiagonal(of)` "
    "or `Diagonal(of)`."
)


class Spectrum(eqx.Module):
    """The eigenvectors and the eigenvalues of a matrix, per slice."""

    vectors: Float[Array, "L p p"]
    values: Float[Array, "L p"]


def spectrum(matrices: Float[Array, "L p p"]) -> Spectrum:
    """Eigenvectors and eigenvalues of positive semidefinite matrices; what is below 0 is 0.

    What a matrix has above its diagonal does not count.

    One matrix at a time: LAPACK works on a batch with threads that other calls may wait for.
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
def _refused(primals: Any, tangents: Any) -> Any:
    del primals, tangents
    raise ValueError(_NO_DERIVATIVE)


def spectral_block(layout: Joined | Ravelled) -> Callable[[Spectrum], SpectralBlock]:
    """What makes the block of one slice of a spectrum."""
    return lambda spectrum: SpectralBlock(spectrum.vectors, spectrum.values, layout)


def per_slice(fn: Callable[..., Any], *stacked: PyTree[Array]) -> Any:
    """`fn` of each slice of arrays [L, ...], and of the only one without `vmap`.

    XLA transposes the operands of a batch of one matrix product, which it does not for one product.
    """
    if len(jtu.tree_leaves(stacked)[0]) > 1:
        return jax.vmap(fn)(*stacked)
    found = fn(*jtu.tree_map(lambda leaf: leaf[0], stacked))
    return jtu.tree_map(lambda leaf: leaf[None], found)


def of_slices(
    make: Callable[[Any], AbstractBlock], stacked: PyTree[Array], length: int | None
) -> AbstractBlock:
    """What `make` makes of each slice, or of the only one where nothing is stacked.

    **Arguments:** `stacked`, arrays [L, ...], with L = 1 where `length` is None.
    """
    if length is None:
        return make(jtu.tree_map(lambda leaf: leaf[0], stacked))
    return StackedBlock(eqx.filter_vmap(make)(stacked))


def is_made_of(block: AbstractBlock, kind: type[AbstractBlock]) -> bool:
    """Whether it is such a block, or one for each slice."""
    return isinstance(block.blocks if isinstance(block, StackedBlock) else block, kind)


def joined(layer: MatrixLayer, linearisation: AbstractLinearisation) -> Joined:
    """How a layer's weights make one matrix, for a slice of them where they are stacked."""
    leaves = jtu.tree_leaves(linearisation.params)
    return Joined(layer.slice_shapes([leaves[j].shape for j in layer.leaves]), layer.transposed)
