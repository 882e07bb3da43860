import abc

import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, Float, PyTree, Scalar

from ._solved import Solved

# How many columns of a dense matrix are worked on at a time.
_CHUNK = 64


class AbstractPositiveOperator(lx.AbstractLinearOperator):
    """A real symmetric positive semidefinite operator on the trainable weights.

    The functions of lineax that dispatch on an operator are registered for this class, and so for
    every subclass. A subclass implements `mv`, `as_matrix`, `diagonal` and `in_structure`.
    """

    @abc.abstractmethod
    def diagonal(self) -> Float[Array, " P"]:
        """The diagonal of the matrix, for ravelled weights."""

    def transpose(self) -> "AbstractPositiveOperator":
        return self

    def out_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        return self.in_structure()


class AbstractInvertibleOperator(AbstractPositiveOperator):
    """A positive operator with a damped inverse, such as the diagonal of a curvature."""

    @abc.abstractmethod
    def inverse(self, damping: Scalar) -> AbstractPositiveOperator:
        """(C + λI)⁻¹ for λ > 0, exact up to rounding."""

    @abc.abstractmethod
    def solve(self, b: PyTree[Float[Array, "..."]], damping: Scalar) -> Solved:
        """Solves (C + λI) d = b for λ > 0; use `solved_by_product` if nothing is cheaper."""

    def solve_gradient(self, b: PyTree[Float[Array, "..."]], damping: Scalar) -> Solved:
        """Solves (C + λI) d = b for b = ∇L, the gradient of the loss.

        ∇L is over all examples of the linearisation that C was made from. An operator that can
        solve without the array b need not use `b`; b is then not computed.
        """
        return self.solve(b, damping)

    @abc.abstractmethod
    def describe(self) -> str:
        """A short text that says which weights have which structure."""


def matrix_by_products(operator: lx.AbstractLinearOperator) -> Float[Array, "P P"]:
    """The matrix of an operator, one product per column, a chunk of columns at a time."""
    shapes = operator.in_structure()
    zeros, unravel = jfu.ravel_pytree(jtu.tree_map(lambda s: jnp.zeros(s.shape, s.dtype), shapes))

    def column(j: Array) -> Float[Array, " P"]:
        return jfu.ravel_pytree(operator.mv(unravel(zeros.at[j].set(1))))[0]

    return jax.lax.map(column, jnp.arange(zeros.size), batch_size=_CHUNK).T


def _true(operator: lx.AbstractLinearOperator) -> bool:
    del operator
    return True


def _false(operator: lx.AbstractLinearOperator) -> bool:
    del operator
    return False


def _same(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    return operator


def _materialise(operator: AbstractPositiveOperator) -> lx.AbstractLinearOperator:
    product = lx.FunctionLinearOperator(
        operator.mv, operator.in_structure(), lx.positive_semidefinite_tag
    )
    return lx.materialise(product)


lx.is_symmetric.register(AbstractPositiveOperator)(_true)
lx.is_positive_semidefinite.register(AbstractPositiveOperator)(_true)
for _property in (
    lx.is_diagonal,
    lx.has_unit_diagonal,
    lx.is_lower_triangular,
    lx.is_upper_triangular,
    lx.is_tridiagonal,
    lx.is_negative_semidefinite,
):
    _property.register(AbstractPositiveOperator)(_false)
lx.diagonal.register(AbstractPositiveOperator)(lambda operator: operator.diagonal())
lx.tridiagonal.register(AbstractPositiveOperator)(lambda op: lx.tridiagonal(lx.materialise(op)))
lx.linearise.register(AbstractPositiveOperator)(_same)
lx.conj.register(AbstractPositiveOperator)(_same)
lx.materialise.register(AbstractPositiveOperator)(_materialise)
