"""What K-FAC and EKFAC share: the factors of a batch, their eigenbases, the blocks made of them."""

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, ScalarLike

from ..._checks import fraction, one_of, positive_int
from ...linearisation import AbstractLinearisation
from ...operators.blocks import (
    AbstractBlock,
    BlockOperator,
    EigenbasisBlock,
    ElementwiseBlock,
    Joined,
    OutputBasisBlock,
    Ravelled,
)
from .._average import Average
from ._captures import Capture
from ._partition import Partition
from ._rest import blocks_of
from ._slices import Spectrum, joined, of_slices, spectral_block, spectrum

Approximation: TypeAlias = Literal["expand", "reduce"]


def check(
    name: str, approximation: Approximation, decay: ScalarLike, every: int, max_block: int
) -> None:
    """Refuses settings out of range; `name` is that of the structure."""
    fraction(f"{name}(decay=...)", decay)
    positive_int(f"{name}(every=...)", every)
    positive_int(f"{name}(max_block=...)", max_block)
    one_of(f"{name}(approximation=...)", approximation, ("expand", "reduce"))


class Factors(eqx.Module):
    """What is estimated from a batch.

    - `left`, `right`: G_t and A_t, [L, …, …], per layer and term; of a table that is looked up A_t
      is diagonal, and its diagonal is held, [L, …].
    - `dense`, `elementwise`: the matrices and the diagonals of what is no layer.
    """

    left: list[list[Float[Array, "_L _out _out2"]]]
    right: list[list[Float[Array, "_L *_in"]]]
    dense: list[Float[Array, "_L _p _p2"]]
    elementwise: list[list[Float[Array, "..."]]]


class Eigenbasis(eqx.Module):
    """U, V and the products of the eigenvalues of G and A, per slice; V is None for V = I."""

    left: Float[Array, "L out out"]
    right: Float[Array, "L in in"] | None
    values: Float[Array, "L out in"]


def factors_of(
    linearisation: AbstractLinearisation,
    S: tuple[lx.AbstractLinearOperator, ...],
    captures: Sequence[Sequence[Capture]],
    partition: Partition,
    approximation: Approximation,
) -> Factors:
    """A, G and the blocks of the rest, of one batch.

    With *expand*, A = Σ_it v_i ā āᵀ/T and G = Σ_ikt Δ Δᵀ; with *reduce*, A = Σ_i v_i â âᵀ with
    â the mean of ā over the T positions, and G = Σ_ik (Σ_t Δ)(Σ_t Δ)ᵀ. v_i is 1/n, or the share of
    the example's weight in the sum of all (Eschenhagen et al. 2023, "Kronecker-Factored Approximate
    Curvature for Modern Neural Network Architectures", sections 3.1 and 3.2).

    For tables that are looked up it is always *expand*, where A is the diagonal matrix of the
    tokens' shares; the A of *reduce* has an entry for any two tokens of one example.
    """
    dense, elementwise = blocks_of(linearisation, S, partition.dense, partition.elementwise)
    kept = captures
    if approximation == "reduce":
        kept = [[term.reduced() for term in layer] for layer in captures]
    left = [[_outputs(term) for term in layer] for layer in kept]
    right = [[_inputs(term) for term in layer] for layer in kept]
    return Factors(left, right, dense, elementwise)


def _inputs(captured: Capture) -> Float[Array, "L *in"]:
    total = jnp.sum(captured.scale)
    return captured.inputs_moment(captured.scale / jnp.where(total == 0, 1, total))


def _outputs(captured: Capture) -> Float[Array, "L out out"]:
    L, *_, out = captured.cotangents.shape
    flat = captured.cotangents.reshape(L, -1, out)
    return jnp.einsum("lmi,lmj->lij", flat, flat)


def eigenbasis(
    left: Sequence[Float[Array, "L out out"]], right: Sequence[Float[Array, "L *in"]]
) -> Eigenbasis:
    """That of G ⊗ A; with several terms, of ΣG_t ⊗ the mean of the A_t by the traces of the G_t."""
    along = (slice(None), *[None] * (right[0].ndim - 1))
    shares = [jnp.trace(G, axis1=1, axis2=2)[along] for G in left]
    total = sum(shares[1:], shares[0])
    total = jnp.where(total == 0, 1, total)
    weighted = [share * A for share, A in zip(shares, right, strict=True)]
    of_left = spectrum(sum(left[1:], left[0]))
    mean = right[0] if len(right) == 1 else sum(weighted[1:], weighted[0]) / total
    if mean.ndim == 2:
        vectors, of_right = None, mean
    else:
        found = spectrum(mean)
        vectors, of_right = found.vectors, found.values
    values = of_left.values[:, :, None] * of_right[:, None, :]
    return Eigenbasis(of_left.vectors, vectors, values)


def in_bases(
    bases: Sequence[Eigenbasis], partition: Partition, linearisation: AbstractLinearisation
) -> list[AbstractBlock]:
    """(U ⊗ V) diag(s) (U ⊗ V)ᵀ per layer."""
    return [
        of_slices(eigenbasis_block(joined(layer, linearisation)), basis, layer.length)
        for basis, layer in zip(bases, partition.layers, strict=True)
    ]


def eigenbasis_block(layout: Joined) -> Callable[[Eigenbasis], AbstractBlock]:
    """What makes the block of one slice of a basis."""

    def make(basis: Eigenbasis) -> AbstractBlock:
        if basis.right is None:
            return OutputBasisBlock(basis.left, basis.values, layout)
        return EigenbasisBlock(basis.left, basis.right, basis.values, layout)

    return make


def assembled(
    layers: Sequence[AbstractBlock],
    dense: Sequence[Spectrum],
    factors: Factors,
    partition: Partition,
    linearisation: AbstractLinearisation,
) -> BlockOperator:
    """The operator of the blocks of the layers and of the rest."""
    matrices = [
        of_slices(spectral_block(Ravelled(group.shapes)), spectrum, group.length)
        for spectrum, group in zip(dense, partition.dense, strict=True)
    ]
    diagonals = [ElementwiseBlock(values) for values in factors.elementwise]
    parts = (*partition.layers, *partition.dense, *partition.elementwise)
    structure = jax.eval_shape(lambda: linearisation.params)
    return BlockOperator(
        [*layers, *matrices, *diagonals], [part.leaves for part in parts], structure
    )


def due(before: Average, after: Average, every: int) -> Array:
    """Whether bases are made anew: at the first three batches, then at every so many.

    A batch that is not finite is not counted.
    """
    steps = before.steps
    return (after.steps > steps) & ((steps < 3) | (steps % every == 0))
