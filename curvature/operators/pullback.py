from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, Float, PyTree

from .._precision import full_precision
from .._trees import work_dtype
from ..likelihoods import Coefficients, square_mv
from ..linearisation import AbstractLinearisation
from ..rows import (
    Layout,
    Rows,
    columns_of,
    diagonal_of,
    layout_of,
    matrix_of,
    ranks_of,
    rows_of,
)
from ._base import AbstractPositiveOperator, matrix_by_products
from ._forms import quadratic_forms

# C from rows costs, per example, r backward passes and 2rP² operations of one matrix product, if S
# has r columns. C from P products costs P gradients: some 6P² operations, which run at a lower
# rate.
_MOST_COLUMNS = 8


class PullbackOperator(AbstractPositiveOperator):
    """C = Σ_t Σ_i scale_i J_iᵀ S_i S_iᵀ J_i on the trainable weights; symmetric, PSD.

    - `linearisation`: holds J_i and scale_i. If the examples have no weights of their own, scale_i
      is weight_t/n_t.
    - `factors`: per term the S_i of all its examples, as one lineax operator R^r → R^c whose
      arrays have a leading axis n.
    - `coefficients`: per term the ρ_i with S_i ρ_i = ∇_z nll, with a leading axis n, or None.

    A product costs about one gradient: a forward pass of tangents, S Sᵀ per example, and a
    backward pass.
    """

    linearisation: AbstractLinearisation
    factors: tuple[lx.AbstractLinearOperator, ...]
    coefficients: tuple[Coefficients | None, ...]

    @full_precision
    def mv(self, vector: PyTree[Float[Array, "..."]]) -> PyTree[Float[Array, "..."]]:
        def of_part(part: AbstractLinearisation, factors: Sequence[Any]) -> PyTree[Array]:
            parts = zip(part.terms, factors, part.jvp(vector), strict=True)
            return part.vjp(tuple(term.scaled(_metric(S, u)) for term, S, u in parts))

        return self.linearisation.each(of_part, self.factors).sum()

    @full_precision
    def as_matrix(self) -> Float[Array, "P P"]:
        """C as AᵀA from its rows A, or from P products if S has many columns."""
        if max(ranks_of(self.linearisation, self.factors)) > _MOST_COLUMNS:
            return matrix_by_products(self)
        matrix = matrix_of(self.linearisation, self.factors)
        return matrix.astype(work_dtype(self.linearisation.params))

    @full_precision
    def diagonal(self) -> Float[Array, " P"]:
        diagonal = diagonal_of(self.linearisation, self.factors)
        return diagonal.astype(work_dtype(self.linearisation.params))

    def layout(self) -> Layout:
        """The number of rows A of C = AᵀA, and how each weight's part of the rows is computed."""
        return layout_of(self.linearisation, ranks_of(self.linearisation, self.factors))

    @full_precision
    def rows(self, layout: Layout, image: tuple[Float[Array, "..."], ...] | None = None) -> Rows:
        """The rows A of C = AᵀA; `image` holds the cotangents for `Rows.project`."""
        return rows_of(layout, columns_of(self.linearisation, self.factors), image)

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        return jax.eval_shape(lambda: self.linearisation.params)


@quadratic_forms.register
@full_precision
def _(operator: PullbackOperator, vectors: Sequence[PyTree[Array]]) -> Float[Array, "k k"]:
    """By k forward products: vᵢᵀ C vⱼ = Σ scale (J vᵢ)ᵀ M (J vⱼ)."""
    stacked = jtu.tree_map(lambda *leaves: jnp.stack(leaves), *vectors)
    k = len(vectors)

    def of_part(part: AbstractLinearisation, factors: Sequence[Any]) -> Float[Array, "k k"]:
        tangents = jax.vmap(part.jvp)(stacked)
        forms = jnp.zeros((k, k), work_dtype(*tangents))
        for term, factor, u in zip(part.terms, factors, tangents, strict=True):
            image = jax.vmap(lambda one, term=term, S=factor: term.scaled(_metric(S, one)))(u)
            flat, of_image = (x.reshape(k, -1).astype(forms.dtype) for x in (u, image))
            forms += flat @ of_image.T
        return forms

    return operator.linearisation.each(of_part, operator.factors).sum()


def _metric(factor: lx.AbstractLinearOperator, u: Float[Array, "n *shape"]) -> Array:
    """S_i S_iᵀ u_i for every example."""
    flat = u.reshape(u.shape[0], -1)
    return eqx.filter_vmap(square_mv)(factor, flat).reshape(u.shape)
