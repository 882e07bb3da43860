import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from ...rows import Factor, LowerBlocks, factorise
from .._solved import Solved
from ._base import AbstractBlock, AbstractBlockMap
from .layouts import Joined, Ravelled


class AbstractBlockRows(eqx.Module):
    """The rows A of a block AᵀA."""

    @abc.abstractmethod
    def mv(self, array: Float[Array, "..."]) -> Float[Array, " m"]:
        """A v."""

    @abc.abstractmethod
    def transpose_mv(self, weights: Float[Array, " m"]) -> Float[Array, "..."]:
        """Aᵀ w."""

    @abc.abstractmethod
    def gram(self) -> Float[Array, "m m"]:
        """AAᵀ."""

    @abc.abstractmethod
    def squares(self) -> Float[Array, "..."]:
        """The diagonal of AᵀA."""


class HeldRows(AbstractBlockRows):
    """The rows themselves."""

    rows: Float[Array, "m p"]

    def mv(self, array: Float[Array, " p"]) -> Float[Array, " m"]:
        return self.rows @ array

    def transpose_mv(self, weights: Float[Array, " m"]) -> Float[Array, " p"]:
        return weights @ self.rows

    def gram(self) -> Float[Array, "m m"]:
        return self.rows @ self.rows.T

    def squares(self) -> Float[Array, " p"]:
        return jnp.sum(self.rows**2, axis=0)


class LayerRows(AbstractBlockRows):
    """The rows Σ_t Δ_ikt ā_itᵀ of one layer, not made where it has one position.

    Their order is that of the columns k, and for each of them of the examples.

    - `inputs`: ā; `cotangents`: Δ, with √scale_i.
    """

    inputs: Float[Array, "n t in"]
    cotangents: Float[Array, "k n t out"]

    def mv(self, array: Float[Array, "out in"]) -> Float[Array, " m"]:
        images = jnp.einsum("nti,oi->nto", self.inputs, array)
        return jnp.einsum("knto,nto->kn", self.cotangents, images).ravel()

    def transpose_mv(self, weights: Float[Array, " m"]) -> Float[Array, "out in"]:
        per_row = weights.reshape(self.cotangents.shape[:2])
        deltas = jnp.einsum("kn,knto->nto", per_row, self.cotangents)
        return jnp.einsum("nto,nti->oi", deltas, self.inputs)

    def gram(self) -> Float[Array, "m m"]:
        k, n, t, out = self.cotangents.shape
        if t > 1:
            rows = self._rows().reshape(k * n, -1)
            return rows @ rows.T
        flat, inputs = self.cotangents.reshape(k * n, out), self.inputs[:, 0]
        return (flat @ flat.T) * jnp.tile(inputs @ inputs.T, (k, k))

    def squares(self) -> Float[Array, "out in"]:
        return jnp.sum(self._rows() ** 2, axis=(0, 1))

    def _rows(self) -> Float[Array, "k n out in"]:
        return jnp.einsum("knto,nti->knoi", self.cotangents, self.inputs)


class RowsBlock(AbstractBlock):
    """AᵀA for m rows that are fewer than the weights.

        (AᵀA + λI)⁻¹ v = (v − Aᵀ (AAᵀ + λI)⁻¹ A v)/λ

    (Woodbury's identity.) The difference cancels where λ is small: the error is about eps ‖C‖/λ of
    the result.

    - `rows`: A.
    - `layout`: how the weights make one array.
    """

    rows: AbstractBlockRows
    layout: Joined | Ravelled = eqx.field(static=True)

    @property
    def kind(self) -> str:
        return "exact blocks by rows"

    def mv(self, arrays: list[Array]) -> list[Array]:
        seen = self.rows.mv(self.layout.join(arrays))
        return self.layout.split(self.rows.transpose_mv(seen))

    def diagonal(self) -> list[Array]:
        return self.layout.split(self.rows.squares())

    def inverse(self, damping: Scalar) -> AbstractBlockMap:
        return self._inverse(damping)

    def solve(self, arrays: list[Array], damping: Scalar) -> Solved:
        """The residual of d = (v − Aᵀw)/λ is Aᵀ(w − A d): a product with A and the Gram matrix."""
        inverse = self._inverse(damping)
        d, weights = inverse.solution(self.layout.join(arrays))
        image = self.rows.mv(d)
        left = weights - image
        squared = jnp.vdot(left, inverse.gram.symmetric_mv(left[:, None])[:, 0])
        return Solved(self.layout.split(d), jnp.vdot(image, image), jnp.maximum(squared, 0))

    def _inverse(self, damping: Scalar) -> "_RowsInverse":
        gram = LowerBlocks.of(self.rows.gram())
        damping = damping.astype(gram.columns[0].dtype)
        return _RowsInverse(self, gram, factorise(gram, damping, gram.norm()), damping)


class _RowsInverse(AbstractBlockMap):
    block: RowsBlock
    gram: LowerBlocks
    factor: Factor
    damping: Scalar

    def mv(self, arrays: list[Array]) -> list[Array]:
        layout = self.block.layout
        return layout.split(self.solution(layout.join(arrays))[0])

    def solution(self, array: Array) -> tuple[Array, Array]:
        """The damped inverse times v, and w = (AAᵀ + λI)⁻¹ A v."""
        rows = self.block.rows
        weights = self.factor.solve(rows.mv(array))
        return (array - rows.transpose_mv(weights)) / self.damping, weights
