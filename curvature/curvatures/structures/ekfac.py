from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, ScalarLike

from ..._checks import scalar
from ..._precision import full_precision
from ..._trees import select
from ...linearisation import AbstractLinearisation, AbstractPartResults
from ...operators.blocks import BlockOperator
from .._average import Average
from .._base import AbstractPullback
from ._base import AbstractStructure, no_batch
from ._captures import Capture, captures_of_parts, squares_of
from ._kronecker import (
    Approximation,
    Bases,
    Eigenbasis,
    Factors,
    assemble,
    bases_of,
    check,
    eigenbasis,
    eigenbasis_blocks,
    factors_of,
    slices_due,
)
from ._partition import Partition, partition_of


class _State(eqx.Module):
    """The averages, and the bases that are recomputed from them at some steps.

    - `scales`: s of every layer; every slice of a layer has its own average.
    """

    factors: Average
    bases: Bases
    scales: list[Average]


class EKFAC(AbstractStructure):
    """U diag(s) Uᵀ per layer, in the eigenbases of K-FAC's factors (George et al. 2018).

        s = diag(Uᵀ C_ℓ U) = Σ_ik (Uᵀ r_ik)²,    r_ik the layer's part of the rows of C

    A row r_ik is the sum over all positions and uses of the layer, so s is exact in these bases: no
    other diagonal is nearer to C_ℓ in the Frobenius norm. U, the definition of a layer and the
    blocks of other weights are as in [`KFAC`][]. With several terms, U is the eigenbasis of one
    Kronecker product near their sum.

    s is averaged over the steps, as the factors are. When the bases are recomputed, the average of
    s starts anew. Derivatives treat the bases and the exact blocks of other weights as constants. A
    batch whose factors are not finite does not change the averages.

    **Arguments:** as in [`KFAC`][], without `damping`.
    """

    of: AbstractPullback
    decay: ScalarLike
    approximation: Approximation = eqx.field(static=True)
    every: int = eqx.field(static=True)
    max_block: int = eqx.field(static=True)

    def __init__(
        self,
        of: AbstractPullback,
        approximation: Approximation = "expand",
        decay: ScalarLike = 0.95,
        every: int = 10,
        max_block: int = 1024,
    ):
        check("EKFAC", approximation, decay, every, max_block)
        self.of, self.decay, self.approximation = of, scalar(decay), approximation
        self.every, self.max_block = every, max_block

    @property
    def kind(self) -> str:
        return f"EKFAC(max_block={self.max_block})"

    @full_precision
    def operator(
        self, linearisation: AbstractLinearisation, *, key: PRNGKeyArray | None = None
    ) -> BlockOperator:
        partition = partition_of(linearisation, self.max_block)
        captures, factors = self._estimate(linearisation, partition, key)
        bases = _bases(factors)
        scales = _scales(captures, bases.layers)
        return _operator(factors, bases, scales, partition, linearisation)

    def init(self, linearisation: AbstractLinearisation | None) -> _State:
        if linearisation is None:
            raise no_batch(self)
        partition = partition_of(linearisation, self.max_block)

        def shapes(linearisation: AbstractLinearisation) -> Any:
            _, factors = self._estimate(linearisation, partition, jax.random.key(0))
            return factors, _bases(factors)

        factors, bases = eqx.filter_eval_shape(shapes, linearisation)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), bases)
        scales = [jax.vmap(Average.zeros)(basis.values) for basis in zeros.layers]
        return _State(Average.zeros(factors), zeros, scales)

    @full_precision
    def update(
        self,
        linearisation: AbstractLinearisation,
        state: _State,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[BlockOperator, _State]:
        partition = partition_of(linearisation, self.max_block)
        captures, estimate = self._estimate(linearisation, partition, key)
        average = state.factors.update(estimate, self.decay)
        factors = average.value(self.decay)
        due = slices_due(state.factors, average, self.every, factors.slices)
        bases = _bases(factors, state.bases, due)

        def averaged(new: Bool[Array, ""], old: Average, of_batch: Array) -> Average:
            # An average of s in the old bases has no meaning in the new bases.
            return select(new, Average.zeros(old.total), old).update(of_batch, self.decay)

        of_layers = zip(due, state.scales, _scales(captures, bases.layers))
        scales = [jax.vmap(averaged)(*of_layer) for of_layer in of_layers]
        scales = select(average.steps > state.factors.steps, scales, state.scales)
        values = [jax.vmap(lambda s: s.value(self.decay))(of_layer) for of_layer in scales]
        operator = _operator(factors, bases, values, partition, linearisation)
        return operator, _State(average, bases, scales)

    def _estimate(
        self, linearisation: AbstractLinearisation, partition: Partition, key: PRNGKeyArray | None
    ) -> tuple[AbstractPartResults, Factors]:
        S = self.of.operator(linearisation, key=key).factors
        captures = captures_of_parts(linearisation, S, partition.layers)
        return captures, factors_of(linearisation, S, captures, partition, self.approximation)


def _bases(
    factors: Factors, old: Bases | None = None, due: Sequence[Bool[Array, " _L"]] = ()
) -> Bases:
    # `spectrum` raises an error when it is differentiated; here the bases are constants instead.
    return bases_of(jax.lax.stop_gradient(factors), eigenbasis, old, due)


def _scales(
    captures: AbstractPartResults, bases: Sequence[Eigenbasis]
) -> list[Float[Array, "_L _out _in"]]:
    """The diagonal s of every layer, summed over its terms."""

    def of_part(found: Sequence[Sequence[Capture]]) -> list[Array]:
        rotated = [
            [term.rotated(basis.left, basis.right) for term in of_layer]
            for of_layer, basis in zip(found, bases, strict=True)
        ]
        return squares_of(rotated)

    return captures.sum(of_part)


def _operator(
    factors: Factors,
    bases: Bases,
    scales: Sequence[Float[Array, "_L _out _in"]],
    partition: Partition,
    linearisation: AbstractLinearisation,
) -> BlockOperator:
    corrected = [
        Eigenbasis(basis.left, basis.right, s)
        for basis, s in zip(bases.layers, scales, strict=True)
    ]
    blocks = eigenbasis_blocks(corrected, partition, linearisation)
    return assemble(blocks, bases.dense, factors, partition, linearisation)
