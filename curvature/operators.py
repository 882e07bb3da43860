"""The operators of the library, and everything lineax has to be told about them."""

from typing import Any

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, Float, PyTree, Scalar, ScalarLike

from ._checks import number
from ._precision import full_precision
from .likelihoods import Coefficients
from .linearisation import Linearisation
from .rows import (
    Layout,
    Rows,
    columns_of,
    cost_of,
    diagonal_of,
    layout_of,
    matrix_of,
    rows_of,
    split_gradient,
)

# How many columns of the dense matrix are worked on at a time.
_CHUNK = 64


class PullbackOperator(lx.AbstractLinearOperator):
    """C = Σ_t weight_t/n_t Σ_i J_iᵀ S_i S_iᵀ J_i on the trainable weights; symmetric, PSD.

    - `linearisation`: holds the J_i, weight_t and n_t.
    - `factors`: per term the S_i of all its examples, as one lineax operator R^r → R^c whose
      arrays have a leading axis n.
    - `coefficients`: per term the ρ_i with S_i ρ_i = ∇_z nll, with a leading axis n, or None.

    A product costs about one gradient: a forward pass of tangents, S Sᵀ per example, and a
    backward pass.
    """

    linearisation: Linearisation
    factors: tuple[lx.AbstractLinearOperator, ...]
    coefficients: tuple[Coefficients | None, ...]

    @full_precision
    def mv(self, vector: PyTree[Float[Array, "..."]]) -> PyTree[Float[Array, "..."]]:
        tangents = self.linearisation.jvp(vector)
        cotangents = tuple(
            term.scale * _metric(factor, tangent)
            for term, factor, tangent in zip(
                self.linearisation.terms, self.factors, tangents, strict=True
            )
        )
        return self.linearisation.vjp(cotangents)

    @full_precision
    def as_matrix(self) -> Float[Array, "P P"]:
        """C from P products with it, or as AᵀA from its rows, whichever takes fewer operations."""
        cost = cost_of(self.layout())
        if cost.by_rows < cost.by_products:
            return matrix_of(self.linearisation, self.factors)
        return _dense(self)

    @full_precision
    def diagonal(self) -> Float[Array, " P"]:
        return diagonal_of(self.linearisation, self.factors)

    def layout(self) -> Layout:
        """How many rows C = AᵀA has, and how each weight's part of them can be made."""
        columns = eqx.filter_eval_shape(columns_of, self.linearisation, self.factors)
        return layout_of(self.linearisation, [of_term.shape[0] for of_term in columns])

    @full_precision
    def rows(
        self, layout: Layout, cotangents: tuple[Float[Array, "..."], ...] | None = None
    ) -> Rows:
        """The rows A of C = AᵀA; `cotangents` are those that the result can `project`."""
        return rows_of(layout, columns_of(self.linearisation, self.factors), cotangents)

    @full_precision
    def gradient_options(self) -> dict[str, Any]:
        """Options that tell a solver that its vector is the gradient g of the loss.

        - `cotangents`: of the outputs, per term; g is their pullback, g = Jᵀ cotangents.
        - `coefficients`, `remainder`: ρ, [m], and γ (None for 0) with g = Aᵀρ + Jᵀγ.
        """
        columns = columns_of(self.linearisation, self.factors)
        split = split_gradient(self.linearisation, columns, self.coefficients)
        return {
            "cotangents": self.linearisation.cotangents,
            "coefficients": split.coefficients,
            "remainder": split.remainder,
        }

    def transpose(self) -> "PullbackOperator":
        return self

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        return jax.eval_shape(lambda: self.linearisation.params)

    def out_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        return self.in_structure()


class DenseOperator(lx.AbstractLinearOperator):
    """A symmetric positive semidefinite matrix on the trainable weights, ravelled."""

    matrix: Float[Array, "P P"]
    structure: PyTree[jax.ShapeDtypeStruct] = eqx.field(static=True)

    def __init__(self, matrix: Float[Array, "P P"], structure: PyTree[jax.ShapeDtypeStruct]):
        self.matrix = matrix
        leaves, treedef = jtu.tree_flatten(structure)
        self.structure = (tuple(leaves), treedef)  # hashable

    @full_precision
    def mv(self, vector: PyTree[Float[Array, "..."]]) -> PyTree[Float[Array, "..."]]:
        flat, unravel = jfu.ravel_pytree(vector)
        return unravel((self.matrix @ flat).astype(flat.dtype))

    def as_matrix(self) -> Float[Array, "P P"]:
        return self.matrix

    def diagonal(self) -> Float[Array, " P"]:
        return jnp.diagonal(self.matrix)

    def transpose(self) -> "DenseOperator":
        return self

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        leaves, treedef = self.structure
        return jtu.tree_unflatten(treedef, leaves)

    def out_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        return self.in_structure()


class DampedOperator(lx.AbstractLinearOperator):
    """C + λI for a positive semidefinite operator C and a scalar λ ≥ 0; again PSD."""

    operator: lx.AbstractLinearOperator
    damping: Scalar

    def mv(self, vector: PyTree[Float[Array, "..."]]) -> PyTree[Float[Array, "..."]]:
        return jtu.tree_map(
            lambda Cv, v: Cv + self.damping.astype(v.dtype) * v, self.operator.mv(vector), vector
        )

    def as_matrix(self) -> Float[Array, "P P"]:
        matrix = self.operator.as_matrix()
        return matrix + self.damping.astype(matrix.dtype) * jnp.eye(len(matrix), dtype=matrix.dtype)

    def diagonal(self) -> Float[Array, " P"]:
        diagonal = lx.diagonal(self.operator)
        return diagonal + self.damping.astype(diagonal.dtype)

    def transpose(self) -> "DampedOperator":
        return self

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        return self.operator.in_structure()

    def out_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        return self.operator.out_structure()


def damped(operator: lx.AbstractLinearOperator, damping: ScalarLike) -> DampedOperator:
    """C + λI, tagged positive semidefinite.

    **Arguments:** `operator`, C, positive semidefinite; `damping`, λ ≥ 0, a number or an array.

    **Raises:** `ValueError` for an operator not tagged PSD or a λ that is negative or not finite.
    """
    if not lx.is_positive_semidefinite(operator):
        raise ValueError(
            "`damped(operator, damping)` takes an operator that lineax knows to be positive "
            f"semidefinite, got {type(operator).__name__}. Tag it with "
            "`lineax.positive_semidefinite_tag`."
        )
    number("damped(damping=...)", damping)
    return DampedOperator(operator, jnp.asarray(damping))


def _metric(factor: lx.AbstractLinearOperator, u: Float[Array, "n *shape"]) -> Array:
    """S_i S_iᵀ u_i for every example."""
    flat = u.reshape(u.shape[0], -1)
    return eqx.filter_vmap(lambda S, v: S.mv(S.T.mv(v)))(factor, flat).reshape(u.shape)


def _dense(operator: lx.AbstractLinearOperator) -> Float[Array, "P P"]:
    """The matrix, one product per column, a chunk of columns at a time."""
    zeros, unravel = jfu.ravel_pytree(
        jtu.tree_map(lambda s: jnp.zeros(s.shape, s.dtype), operator.in_structure())
    )

    def column(j: Array) -> Float[Array, " P"]:
        return jfu.ravel_pytree(operator.mv(unravel(zeros.at[j].set(1))))[0]

    return jax.lax.map(column, jnp.arange(zeros.size), batch_size=_CHUNK).T


def _true(operator: lx.AbstractLinearOperator) -> bool:
    del operator
    return True


def _false(operator: lx.AbstractLinearOperator) -> bool:
    del operator
    return False


for _operator in (PullbackOperator, DenseOperator, DampedOperator):
    lx.is_symmetric.register(_operator)(_true)
    lx.is_positive_semidefinite.register(_operator)(_true)
    for _property in (
        lx.has_unit_diagonal,
        lx.is_lower_triangular,
        lx.is_upper_triangular,
        lx.is_tridiagonal,
        lx.is_negative_semidefinite,
    ):
        _property.register(_operator)(_false)
    lx.diagonal.register(_operator)(lambda operator: operator.diagonal())
    lx.tridiagonal.register(_operator)(lambda operator: lx.tridiagonal(lx.materialise(operator)))
    lx.linearise.register(_operator)(lambda operator: operator)
    lx.conj.register(_operator)(lambda operator: operator)
    lx.materialise.register(_operator)(
        lambda operator: lx.materialise(
            lx.FunctionLinearOperator(
                operator.mv, operator.in_structure(), lx.positive_semidefinite_tag
            )
        )
    )
lx.is_diagonal.register(PullbackOperator)(_false)
lx.is_diagonal.register(DenseOperator)(_false)
lx.is_diagonal.register(DampedOperator)(lambda operator: lx.is_diagonal(operator.operator))
