"""Shared by K-FAC and EKFAC: the factors of a batch, their eigenbases, and the blocks."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree, ScalarLike

from ..._branches import update_where
from ..._checks import fraction, one_of, positive_int
from ..._devices import on_one_device
from ...linearisation import AbstractLinearisation, AbstractPartResults
from ...operators.blocks import (
    AbstractBlock,
    BlockOperator,
    EigenbasisBlock,
    ElementwiseBlock,
    Joined,
    OutputBasisBlock,
    Ravelled,
)
from ...rows import LowerBlocks
from .._average import Average
from ._captures import Capture
from ._partition import Partition
from ._rest import blocks_of
from ._slices import Spectrum, joined_layout, of_slices, per_slice, spectral_block, spectrum

Approximation: TypeAlias = Literal["expand", "reduce"]
# A with a leading axis L; for a diagonal A its diagonal alone.
InputFactor: TypeAlias = LowerBlocks | Float[Array, "L in"]


def check(
    name: str, approximation: Approximation, decay: ScalarLike, every: int, max_block: int
) -> None:
    """Raises an error for settings out of range; `name` is the name of the structure."""
    fraction(f"{name}(decay=...)", decay)
    positive_int(f"{name}(every=...)", every)
    positive_int(f"{name}(max_block=...)", max_block)
    one_of(f"{name}(approximation=...)", approximation, ("expand", "reduce"))


class Factors(eqx.Module):
    """The matrices that are estimated from a batch.

    - `left`, `right`: G_t and A_t, per layer and term, with a leading axis L. For a table that is
      looked up A_t is diagonal, and `right` holds its diagonal.
    - `dense`, `elementwise`: the matrices and the diagonals for weights that belong to no layer.
    """

    left: list[list[LowerBlocks]]
    right: list[list[InputFactor]]
    dense: list[Float[Array, "_L _p _p2"]]
    elementwise: list[list[Float[Array, "..."]]]

    @property
    def slices(self) -> list[int]:
        """L for every layer, then for every dense group."""
        of_layers = [len(jtu.tree_leaves(left)[0]) for left in self.left]
        return of_layers + [len(matrices) for matrices in self.dense]


class Eigenbasis(eqx.Module):
    """U, V and the products of the eigenvalues of G and A, per slice; V is None for V = I."""

    left: Float[Array, "L out out"]
    right: Float[Array, "L in in"] | None
    values: Float[Array, "L out in"]


class Bases(eqx.Module):
    """Decompositions of the factors, which are recomputed only at some steps (see `slices_due`).

    - `layers`: per layer, the result of the structure's `of_layer` (see `bases_of`).
    - `dense`: the eigenvectors for the dense groups of other weights.
    """

    layers: list[Any]
    dense: list[Spectrum]


def bases_of(
    factors: Factors,
    of_layer: Callable[[Sequence[LowerBlocks], Sequence[InputFactor]], Any],
    old: Bases | None = None,
    due: Sequence[Bool[Array, " _L"]] = (),
) -> Bases:
    """The bases of the factors; for slices that are not due, the old bases.

    **Arguments:** `of_layer`, computes the basis of a layer from its G_t and A_t; `old`, the bases
    of the last step, or None to compute all; `due`, which slices to compute, for every layer and
    then for every dense group.
    """
    pairs = list(zip(factors.left, factors.right, strict=True))
    makes = [lambda of_slices: of_layer(*of_slices)] * len(pairs) + [spectrum] * len(factors.dense)
    groups = [*pairs, *factors.dense]
    if old is None:
        found = [make(of_group) for make, of_group in zip(makes, groups, strict=True)]
    else:
        # `firsts` numbers the slices, so that they run on different devices if there are several.
        firsts = np.cumsum([0, *map(len, due)])[:-1].tolist()
        parts = zip(makes, groups, [*old.layers, *old.dense], due, firsts, strict=True)
        found = [_update_slices(*of_group) for of_group in parts]
    return Bases(found[: len(pairs)], found[len(pairs) :])


def _update_slices(
    make: Callable[[Any], Any],
    stacked: PyTree[Array],
    old: PyTree[Array],
    due: Bool[Array, " L"],
    first: int,
) -> PyTree[Array]:
    """Applies `make` to the slices that are due, one after the other; the others keep `old`.

    **Arguments:** `first`, the number of the device for the first slice.
    """
    if len(due) == 1:
        return update_where(due[0], partial(on_one_device, make, stacked, first), old)

    def of_slice(one: tuple[PyTree[Array], PyTree[Array], Bool[Array, ""], Any]) -> PyTree[Array]:
        of_one, kept, is_due, number = one
        alone = jtu.tree_map(lambda leaf: leaf[None], of_one)

        def made() -> PyTree[Array]:
            return jtu.tree_map(lambda leaf: leaf[0], on_one_device(make, alone, number))

        return update_where(is_due, made, kept)

    # `map`, not `vmap`: under `vmap`, `update_where` computes all slices as soon as one is due.
    numbers = np.arange(first, first + len(due), dtype=np.int32)
    return jax.lax.map(of_slice, (stacked, old, due, numbers))


def factors_of(
    linearisation: AbstractLinearisation,
    S: tuple[lx.AbstractLinearOperator, ...],
    captures: AbstractPartResults,
    partition: Partition,
    approximation: Approximation,
) -> Factors:
    """A and G of the layers, and the blocks of the other weights, from one batch.

    With *expand*, A = Σ_it v_i ā āᵀ/T and G = Σ_ikt Δ Δᵀ. With *reduce*, A = Σ_i v_i â âᵀ with
    â the mean of ā over the T positions, and G = Σ_ik (Σ_t Δ)(Σ_t Δ)ᵀ. v_i is 1/n, or the example's
    weight divided by the sum of all weights (Eschenhagen et al. 2023, "Kronecker-Factored
    Approximate Curvature for Modern Neural Network Architectures", sections 3.1 and 3.2).

    Tables that are looked up always use *expand*. Their A is then diagonal and holds the shares of
    the tokens. The A of *reduce* would have an entry for any two tokens of one example.
    """
    dense, elementwise = blocks_of(linearisation, S, partition.dense, partition.elementwise)

    def of_part(found: Sequence[Sequence[Capture]]) -> tuple[list[Any], list[Any]]:
        if approximation == "reduce":
            found = [[term.reduced() for term in layer] for layer in found]
        left = [[_outputs(term) for term in layer] for layer in found]
        return left, [[term.inputs_moment() for term in layer] for layer in found]

    left, right = captures.sum(of_part)
    return Factors(left, right, dense, elementwise)


def _outputs(captured: Capture) -> LowerBlocks:
    L, *_, out = captured.cotangents.shape
    flat = captured.cotangents.reshape(L, -1, out)
    return per_slice(LowerBlocks.moment, flat, flat)


def eigenbasis(left: Sequence[LowerBlocks], right: Sequence[InputFactor]) -> Eigenbasis:
    """The eigenbasis of G ⊗ A; with several terms, that of the product from `nearest_product`."""
    G, A = nearest_product(left, right)
    of_left = spectrum(per_slice(LowerBlocks.lower, G))
    if isinstance(A, LowerBlocks):
        of_right = spectrum(per_slice(LowerBlocks.lower, A))
        vectors, numbers = of_right.vectors, of_right.values
    else:
        vectors, numbers = None, A
    values = of_left.values[:, :, None] * numbers[:, None, :]
    return Eigenbasis(of_left.vectors, vectors, values)


def nearest_product(
    left: Sequence[LowerBlocks], right: Sequence[InputFactor]
) -> tuple[LowerBlocks, InputFactor]:
    """One Kronecker product near the sum: ΣG_t, and the mean of the A_t with weights tr G_t."""
    if len(left) == 1:
        return left[0], right[0]
    shares = [jnp.sum(jax.vmap(LowerBlocks.diagonal)(G), axis=1) for G in left]
    total = sum(shares[1:], shares[0])
    total = jnp.where(total == 0, 1, total)  # if all G_t are zero, 0/1 takes the place of 0/0
    G = jtu.tree_map(lambda *columns: sum(columns[1:], columns[0]), *left)
    weighted = [
        jax.vmap(lambda A, part: jtu.tree_map(lambda column: part * column, A))(A, share / total)
        for share, A in zip(shares, right, strict=True)
    ]
    return G, jtu.tree_map(lambda *columns: sum(columns[1:], columns[0]), *weighted)


def full_matrices(factors: Sequence[InputFactor]) -> list[Float[Array, "L *m"]]:
    """Per term, the full matrix of a factor of one layer, or the diagonal of a diagonal factor."""
    return [
        jax.vmap(LowerBlocks.matrix)(factor) if isinstance(factor, LowerBlocks) else factor
        for factor in factors
    ]


def eigenbasis_blocks(
    bases: Sequence[Eigenbasis], partition: Partition, linearisation: AbstractLinearisation
) -> list[AbstractBlock]:
    """(U ⊗ V) diag(s) (U ⊗ V)ᵀ per layer."""
    blocks = []
    for basis, layer in zip(bases, partition.layers, strict=True):
        layout = joined_layout(layer, linearisation)
        blocks.append(of_slices(eigenbasis_block(layout), basis, layer.length, layout))
    return blocks


def eigenbasis_block(layout: Joined) -> Callable[[Eigenbasis], AbstractBlock]:
    """A function from the basis of one slice to the block of this slice."""

    def make(basis: Eigenbasis) -> AbstractBlock:
        if basis.right is None:
            return OutputBasisBlock(basis.left, basis.values, layout)
        return EigenbasisBlock(basis.left, basis.right, basis.values, layout)

    return make


def assemble(
    layers: Sequence[AbstractBlock],
    dense: Sequence[Spectrum],
    factors: Factors,
    partition: Partition,
    linearisation: AbstractLinearisation,
) -> BlockOperator:
    """The operator made of the blocks of the layers and of the other weights."""
    matrices = []
    for of_group, group in zip(dense, partition.dense, strict=True):
        layout = Ravelled(group.shapes)
        matrices.append(of_slices(spectral_block(layout), of_group, group.length, layout))
    diagonals = [ElementwiseBlock(values) for values in factors.elementwise]
    parts = (*partition.layers, *partition.dense, *partition.elementwise)
    structure = jax.eval_shape(lambda: linearisation.params)
    return BlockOperator(
        [*layers, *matrices, *diagonals], [part.leaves for part in parts], structure
    )


def slices_due(
    before: Average, after: Average, every: int, slices: Sequence[int]
) -> list[Bool[Array, " _L"]]:
    """Per group of weights, whether the basis of each slice is recomputed at this step.

    All slices are due at the first three batches. After that each slice is due once in `every`
    batches. The slices are spread over these batches, so that no step takes much longer than the
    others. A batch that is not finite is not counted. Before the first finite batch all slices are
    due: the bases then hold NaN, as the factors do, so that the step is rejected.
    """
    if not slices:
        return []
    steps, counted = before.steps, (after.steps > before.steps) | (after.steps == 0)
    ahead = (np.arange(sum(slices)) * every // sum(slices)).astype(np.int32)
    of_groups = np.split(ahead, np.cumsum(slices)[:-1])
    return [counted & ((steps < 3) | ((steps + of_group) % every == 0)) for of_group in of_groups]
