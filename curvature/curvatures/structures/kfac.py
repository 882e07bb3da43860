from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, PRNGKeyArray, Scalar, ScalarLike

from ..._branches import update_where
from ..._checks import one_of, scalar
from ..._devices import on_one_device
from ..._precision import full_precision
from ...linearisation import AbstractLinearisation
from ...operators.blocks import (
    AbstractBlock,
    AbstractBlockMap,
    BlockOperator,
    FactoredBlock,
    Joined,
    KeptInverse,
    ProductsBlock,
)
from ...rows import LowerBlocks
from .._average import Average
from .._base import AbstractPullback
from ._base import AbstractStructure, no_batch
from ._captures import captures_of_parts
from ._kronecker import (
    Approximation,
    Bases,
    Eigenbasis,
    Factors,
    InputFactor,
    assemble,
    bases_of,
    check,
    eigenbasis,
    eigenbasis_block,
    factors_of,
    full_matrices,
    slices_due,
)
from ._partition import Partition, partition_of
from ._slices import Spectrum, is_made_of, joined_layout, of_slices, spectral_block, spectrum


class _Basis(eqx.Module):
    """Eigenvectors and eigenvalues of the factors of one layer.

    - `near`: the eigenbasis of G ⊗ A; None with factored damping.
    - `of_sum`: the spectrum of Σ_t G_t ⊗ A_t, for a small layer in several terms; else None.
    """

    near: Eigenbasis | None
    of_sum: Spectrum | None


class _State(eqx.Module):
    """The averages, and what is recomputed from them at some steps.

    - `inverses`: the factored inverses; None for blocks without a factored inverse.
    - `due`: per layer and dense group, whether `refresh` has to recompute its inverse, for all
      slices at once; empty if there are no inverses.
    """

    factors: Average
    bases: Bases
    inverses: list[AbstractBlockMap | None]
    due: list[Bool[Array, ""]]


class KFAC(AbstractStructure):
    """A Kronecker product per layer, C_ℓ ≈ G ⊗ A (Martens and Grosse 2015).

    A is the second moment of the layer's inputs, with a 1 appended for the bias. G is the second
    moment of the cotangents of the layer's outputs. With several terms the block is a sum of
    products, Σ_t G_t ⊗ A_t.

    A layer is any matrix on which the outputs depend only through its products with vectors. The
    matrix may be used once or often, along a sequence, in a convolution, or stacked under `scan`.
    Every slice of a stack, and every group of a convolution in groups, is a layer of its own. For a
    table whose rows are looked up, such as an embedding, A is diagonal and holds the shares of the
    tokens. A table that is also the matrix of another layer is not a layer. Other weights have the
    exact block of their module, or the diagonal of this block if it has more than `max_block`
    weights.

    The approximation is exact for one example at one position, and for a deep linear net with a
    Gaussian likelihood.

    The factors are averaged over the steps, Σ_s β^(t−s) A_s with the bias of the start corrected.
    Their eigenvectors, and so the operator, are recomputed at the first three steps. After that
    they are recomputed once in `every` steps, with the layers and their slices spread over these
    steps. A batch whose factors are not finite does not change the averages. A derivative with
    respect to the weights raises an error.

    **Arguments:**

    - `of`: any pullback curvature.
    - `approximation`: for layers with several positions, `"expand"` or `"reduce"` (Eschenhagen et
      al. 2023). Tables always use `"expand"`, since the A of `"reduce"` is not diagonal.
    - `decay`: β in [0, 1), 0 for no average.
    - `every`: the number of steps from one computation of the eigenvectors to the next.
    - `max_block`: the most weights of an exact block.
    - `damping`: `"exact"` solves with G ⊗ A + λI by eigenvectors. `"factored"` adds √λ/π I to G and
      π√λ I to A (Martens and Grosse 2015, section 6.3), and needs only Cholesky factors. The
      Cholesky factors are recomputed at the steps where `"exact"` recomputes eigenvectors; in
      between they keep the λ of their step. A layer in several terms and a table always use
      `"exact"`. Products, metric and residual are always those of the latest G ⊗ A, so the residual
      of `"factored"` is not small.
    """

    of: AbstractPullback
    decay: ScalarLike
    approximation: Approximation = eqx.field(static=True)
    every: int = eqx.field(static=True)
    max_block: int = eqx.field(static=True)
    damping: Literal["exact", "factored"] = eqx.field(static=True)

    def __init__(
        self,
        of: AbstractPullback,
        approximation: Approximation = "expand",
        decay: ScalarLike = 0.95,
        every: int = 10,
        max_block: int = 1024,
        damping: Literal["exact", "factored"] = "exact",
    ):
        check("KFAC", approximation, decay, every, max_block)
        one_of("KFAC(damping=...)", damping, ("exact", "factored"))
        self.of, self.decay, self.approximation = of, scalar(decay), approximation
        self.every, self.max_block, self.damping = every, max_block, damping

    @property
    def kind(self) -> str:
        return f"KFAC(max_block={self.max_block}, damping={self.damping!r})"

    @full_precision
    def operator(
        self, linearisation: AbstractLinearisation, *, key: PRNGKeyArray | None = None
    ) -> BlockOperator:
        partition = partition_of(linearisation, self.max_block)
        factors = self._factors(linearisation, partition, key)
        bases = bases_of(factors, self._basis)
        return self._operator(factors, bases, partition, linearisation)

    def init(self, linearisation: AbstractLinearisation | None) -> _State:
        if linearisation is None:
            raise no_batch(self)
        partition = partition_of(linearisation, self.max_block)

        def shapes(linearisation: AbstractLinearisation) -> Any:
            factors = self._factors(linearisation, partition, jax.random.key(0))
            bases = bases_of(factors, self._basis)
            operator = self._operator(factors, bases, partition, linearisation)
            inverses = [
                _inverse((block, linearisation.loss)) if is_made_of(block, FactoredBlock) else None
                for block in operator.blocks
            ]
            return factors, bases, inverses

        factors, *others = eqx.filter_eval_shape(shapes, linearisation)
        bases, inverses = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), others)
        none_due = _none_due(inverses, len(factors.slices))
        return _State(Average.zeros(factors), bases, inverses, none_due)

    @full_precision
    def update(
        self,
        linearisation: AbstractLinearisation,
        state: _State,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[BlockOperator, _State]:
        partition = partition_of(linearisation, self.max_block)
        estimate = self._factors(linearisation, partition, key)
        average = state.factors.update(estimate, self.decay)
        factors = average.value(self.decay)
        due_slices = slices_due(state.factors, average, self.every, factors.slices)
        bases = bases_of(factors, self._basis, state.bases, due_slices)
        operator = self._operator(factors, bases, partition, linearisation)
        # The inverses of all slices are recomputed together, when the first slice is due.
        of_groups = [of_slices[0] for of_slices in due_slices] if state.due else []
        return operator, _State(average, bases, state.inverses, of_groups)

    @full_precision
    def refresh(
        self, operator: lx.AbstractLinearOperator, state: _State, damping: Scalar
    ) -> tuple[lx.AbstractLinearOperator, _State]:
        assert isinstance(operator, BlockOperator)
        blocks, inverses = [*operator.blocks], [*state.inverses]
        for i, old in enumerate(inverses):
            if old is not None:
                make = partial(on_one_device, _inverse, (blocks[i], damping), i)
                kept = inverses[i] = update_where(state.due[i], make, old)
                blocks[i] = KeptInverse(blocks[i], kept)
        refreshed = BlockOperator(blocks, operator.leaves, operator.in_structure())
        due = _none_due(inverses, len(state.due))
        return refreshed, _State(state.factors, state.bases, inverses, due)

    def _factors(
        self, linearisation: AbstractLinearisation, partition: Partition, key: PRNGKeyArray | None
    ) -> Factors:
        S = self.of.operator(linearisation, key=key).factors
        captures = captures_of_parts(linearisation, S, partition.layers)
        return factors_of(linearisation, S, captures, partition, self.approximation)

    def _basis(self, left: Sequence[LowerBlocks], right: Sequence[InputFactor]) -> _Basis:
        # A table keeps the exact inverse: its A is diagonal, so only G needs eigenvectors.
        computed = isinstance(right[0], LowerBlocks)
        if self.damping == "factored" and len(left) == 1 and computed:
            return _Basis(None, None)
        return _Basis(eigenbasis(left, right), self._of_sum(left, right))

    def _of_sum(self, left: Sequence[LowerBlocks], right: Sequence[InputFactor]) -> Spectrum | None:
        if len(left) == 1:
            return None
        pairs = list(zip(full_matrices(left), full_matrices(right), strict=True))
        if pairs[0][0].shape[-1] * pairs[0][1].shape[-1] > self.max_block:
            return None
        products = [jax.vmap(_kron)(G, A) for G, A in pairs]
        return spectrum(sum(products[1:], products[0]))

    def _operator(
        self,
        factors: Factors,
        bases: Bases,
        partition: Partition,
        linearisation: AbstractLinearisation,
    ) -> BlockOperator:
        blocks = []
        for layer, basis, left, right in zip(
            partition.layers, bases.layers, factors.left, factors.right, strict=True
        ):
            layout = joined_layout(layer, linearisation)
            near, of_sum = basis.near, basis.of_sum
            if near is None:
                block = of_slices(
                    _factored_block(layout), (left[0], right[0]), layer.length, layout
                )
            elif len(left) == 1:
                block = of_slices(eigenbasis_block(layout), near, layer.length, layout)
            elif of_sum is not None:
                block = of_slices(spectral_block(layout), of_sum, layer.length, layout)
            else:
                stacked = (
                    jnp.stack(full_matrices(left), axis=1),
                    jnp.stack(full_matrices(right), axis=1),
                    near,
                )
                block = of_slices(_products_block(layout), stacked, layer.length, layout)
            blocks.append(block)
        return assemble(blocks, bases.dense, factors, partition, linearisation)


def _none_due(inverses: Sequence[AbstractBlockMap | None], groups: int) -> list[Bool[Array, ""]]:
    if all(inverse is None for inverse in inverses):
        return []
    return [jnp.zeros((), bool) for _ in range(groups)]


def _inverse(given: tuple[AbstractBlock, Scalar]) -> AbstractBlockMap:
    block, damping = given
    return block.inverse(damping)


def _factored_block(layout: Joined) -> Callable[[tuple[LowerBlocks, LowerBlocks]], FactoredBlock]:
    return lambda factors: FactoredBlock(*factors, layout)


def _kron(G: Float[Array, "out out"], A: Float[Array, "*in"]) -> Float[Array, "p p"]:
    return jnp.kron(G, A if A.ndim == 2 else jnp.diag(A))


def _products_block(layout: Joined) -> Callable[[tuple[Array, Array, Eigenbasis]], ProductsBlock]:
    def make(one: tuple[Array, Array, Eigenbasis]) -> ProductsBlock:
        left, right, near = one
        return ProductsBlock(left, right, eigenbasis_block(layout)(near), layout)

    return make
