import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from ..._devices import replicate
from ...rows import Factor, LowerBlocks, factorise, row_products
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

    def gradient(self) -> "AbstractRowsGradient | None":
        """The gradient of the loss if it is available without forming it, else None."""
        return None


class AbstractRowsGradient(eqx.Module):
    """The gradient g of the loss in the weights of one layer, with rows A; g is not formed."""

    @abc.abstractmethod
    def products(self) -> tuple[Float[Array, " m"], Scalar]:
        """A g and ‖g‖²."""

    @abc.abstractmethod
    def less(self, weights: Float[Array, " m"]) -> Float[Array, "..."]:
        """The difference g − Aᵀw."""


class HeldRows(AbstractBlockRows):
    """Rows that are held as an array."""

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
    """The rows Σ_t Δ_ikt ā_itᵀ of one layer, given by its inputs and cotangents.

    The rows are ordered by column k, then by example i. Products with vectors do not form the rows,
    and for one position the Gram matrix does not form them either.

    - `inputs`: ā; `cotangents`: Δ, with the factor √scale_i.
    - `of_loss`: D, the cotangents of the loss, with the factor scale_i, or None. The gradient is
      g = Σ_it D_it ā_itᵀ.
    """

    inputs: Float[Array, "n t in"]
    cotangents: Float[Array, "k n t out"]
    of_loss: Float[Array, "n t out"] | None = None

    def mv(self, array: Float[Array, "out in"]) -> Float[Array, " m"]:
        images = jnp.einsum("nti,oi->nto", self.inputs, array)
        return jnp.einsum("knto,nto->kn", self.cotangents, images).ravel()

    def transpose_mv(self, weights: Float[Array, " m"]) -> Float[Array, "out in"]:
        per_row = weights.reshape(self.cotangents.shape[:2])
        deltas = jnp.einsum("kn,knto->nto", per_row, self.cotangents)
        return jnp.einsum("nto,nti->oi", deltas, self.inputs)

    def gram(self) -> Float[Array, "m m"]:
        k, n, t, _ = self.cotangents.shape
        if t > 1:
            rows = self._rows().reshape(n * k, -1)
            products = (rows @ rows.T).reshape(n, k, n, k)
            return products.transpose(1, 0, 3, 2).reshape(k * n, k * n)
        deltas = self.cotangents[:, :, 0]
        products = row_products(deltas, deltas) * self.similarities()[None, :, None, :]
        return replicate(products).reshape(k * n, k * n)

    def squares(self) -> Float[Array, "out in"]:
        return jnp.sum(self._rows() ** 2, axis=(0, 1))

    def gradient(self) -> "AbstractRowsGradient | None":
        # For several positions, forming g is cheaper.
        if self.of_loss is None or self.of_loss.shape[1] > 1:
            return None
        return _LayerGradient(self, self.of_loss)

    def similarities(self) -> Float[Array, "n n"]:
        """The inner products of all pairs of inputs, for a layer with one position."""
        inputs = self.inputs[None, :, 0]
        return replicate(row_products(inputs, inputs)[0, :, 0])

    def _rows(self) -> Float[Array, "n k out in"]:
        """All rows, example by example: one batched product over the examples is fastest."""
        k, n, t, out = self.cotangents.shape
        deltas = self.cotangents.transpose(1, 2, 0, 3).reshape(n, t, k * out)
        return jnp.einsum("ntc,nti->nci", deltas, self.inputs).reshape(n, k, out, -1)


class _LayerGradient(AbstractRowsGradient):
    rows: LayerRows
    of_loss: Float[Array, "n 1 out"]

    def products(self) -> tuple[Float[Array, " m"], Scalar]:
        of_loss, similarities = self.of_loss[:, 0], self.rows.similarities()
        image = similarities @ of_loss  # g ā_i for all examples
        # Rounding may make the difference ‖g‖² zero or negative, but 0 means that g is 0.
        terms = jnp.vdot(jnp.sum(of_loss**2, axis=1), jnp.diagonal(similarities))
        squared = jnp.maximum(
            jnp.vdot(of_loss, image), float(jnp.finfo(terms.dtype).eps) ** 2 * terms
        )
        seen = jnp.einsum("kno,no->kn", self.rows.cotangents[:, :, 0], image)
        return seen.ravel(), squared

    def less(self, weights: Float[Array, " m"]) -> Float[Array, "out in"]:
        per_row = weights.reshape(self.rows.cotangents.shape[:2])
        taken = jnp.einsum("kn,kno->no", per_row, self.rows.cotangents[:, :, 0])
        return (self.of_loss[:, 0] - taken).T @ self.rows.inputs[:, 0]


class RowsBlock(AbstractBlock):
    """AᵀA for m rows A, with m smaller than the number of weights.

        (AᵀA + λI)⁻¹ v = (v − Aᵀ (AAᵀ + λI)⁻¹ A v)/λ

    (Woodbury's identity.) For small λ the difference suffers from cancellation: the error relative
    to the result is about eps ‖C‖/λ.

    - `rows`: A.
    - `layout`: how the weights are joined into one array.
    """

    rows: AbstractBlockRows
    layout: Joined | Ravelled = eqx.field(static=True)

    @property
    def kind(self) -> str:
        return "exact blocks by rows"

    @property
    def has_rows(self) -> bool:
        return True

    def mv(self, arrays: list[Array]) -> list[Array]:
        seen = self.rows.mv(self.layout.join(arrays))
        return self.layout.split(self.rows.transpose_mv(seen))

    def diagonal(self) -> list[Array]:
        return self.layout.split(self.rows.squares())

    def inverse(self, damping: Scalar) -> AbstractBlockMap:
        return self._inverse(damping)

    def solve(self, arrays: list[Array], damping: Scalar) -> Solved:
        """Solves by Woodbury's identity.

        The residual of d = (v − Aᵀw)/λ is Aᵀ(w − A d). Its norm takes one product with A and one
        with the Gram matrix.
        """
        inverse = self._inverse(damping)
        d, weights = inverse.solution(self.layout.join(arrays))
        image = self.rows.mv(d)
        left = weights - image
        squared = jnp.vdot(left, inverse.gram.symmetric_mv(left[:, None])[:, 0])
        return Solved(self.layout.split(d), jnp.vdot(image, image), jnp.maximum(squared, 0))

    def solve_gradient(self, arrays: list[Array], damping: Scalar) -> Solved:
        """Solves for b = g without forming g, if `rows.gradient()` is available.

        This saves two products of the size of g. A d is computed as (A g − K w)/λ, with the Gram
        matrix K. This formula does not include the rounding error of d itself, eps ‖g‖/λ, so an
        estimate of this error is added to the residual.
        """
        gradient = self.rows.gradient()
        if gradient is None:
            return self.solve(arrays, damping)
        inverse = self._inverse(damping)
        gram, damping = inverse.gram, inverse.damping
        seen, squared_vector = gradient.products()
        weights = inverse.factor.solve(seen)
        d = gradient.less(weights) / damping
        image = (seen - gram.symmetric_mv(weights[:, None])[:, 0]) / damping
        left, metric = weights - image, jnp.vdot(image, image)
        slope = metric + damping * jnp.vdot(d, d) + jnp.vdot(image, left)
        squared = jnp.vdot(left, gram.symmetric_mv(left[:, None])[:, 0])
        eps = float(jnp.finfo(damping.dtype).eps)
        rounding = (eps * (gram.norm() / damping + 1)) ** 2 * squared_vector
        residual = jnp.maximum(squared, 0) + rounding
        return Solved(self.layout.split(d), metric, residual, slope, squared_vector)

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
