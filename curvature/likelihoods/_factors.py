"""Factors S of metrics M = S Sᵀ on one example's outputs, with products in closed form."""

import abc

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float


class AbstractFactor(lx.AbstractLinearOperator):
    """S (c × r), a linear operator between flat real vectors, with products with M = S Sᵀ.

    The fields of a subclass must be arrays or pytrees of arrays; a static field must be the same
    for all examples. `eqx.filter_vmap` then returns the factors of all examples as one operator,
    whose arrays have a leading axis. Sizes are read from the shapes of the arrays inside the
    `vmap`.
    """

    @abc.abstractmethod
    def transposed_mv(self, u: Float[Array, " c"]) -> Float[Array, " r"]:
        """Sᵀ u."""

    @abc.abstractmethod
    def square_mv(self, u: Float[Array, " c"]) -> Float[Array, " c"]:
        """M u = S Sᵀ u; computed without S if M has a simpler closed form."""

    def transpose(self) -> "TransposedFactor":
        return TransposedFactor(self)


class TransposedFactor(lx.AbstractLinearOperator):
    """Sᵀ (r × c)."""

    factor: AbstractFactor

    def mv(self, vector: Float[Array, " c"]) -> Float[Array, " r"]:
        return self.factor.transposed_mv(vector)

    def as_matrix(self) -> Float[Array, "r c"]:
        return self.factor.as_matrix().T

    def transpose(self) -> AbstractFactor:
        return self.factor

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return self.factor.out_structure()

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return self.factor.in_structure()


class DiagonalFactor(AbstractFactor):
    """S = diag(s), M = diag(s²), for s ≥ 0."""

    values: Float[Array, " c"]

    def mv(self, vector: Float[Array, " c"]) -> Float[Array, " c"]:
        return self.values * vector

    def transposed_mv(self, u: Float[Array, " c"]) -> Float[Array, " c"]:
        return self.values * u

    def square_mv(self, u: Float[Array, " c"]) -> Float[Array, " c"]:
        return self.values * self.values * u

    def as_matrix(self) -> Float[Array, "c c"]:
        return jnp.diag(self.values)

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return _vector(self.values.size, self.values)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return _vector(self.values.size, self.values)


class MaskedFactor(AbstractFactor):
    """S with zeros in the rows of the masked outputs; M has zeros in their rows and columns.

    `factor` is any lineax operator between flat vectors; `mask` is True where an output counts.
    """

    factor: lx.AbstractLinearOperator
    mask: Bool[Array, " c"]

    def mv(self, vector: Float[Array, " r"]) -> Float[Array, " c"]:
        return self._masked(self.factor.mv(vector))

    def transposed_mv(self, u: Float[Array, " c"]) -> Float[Array, " r"]:
        return self.factor.T.mv(self._masked(u))

    def square_mv(self, u: Float[Array, " c"]) -> Float[Array, " c"]:
        return self._masked(square_mv(self.factor, self._masked(u)))

    def as_matrix(self) -> Float[Array, "c r"]:
        return jnp.where(self.mask[:, None], self.factor.as_matrix(), 0)

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return self.factor.in_structure()

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return self.factor.out_structure()

    def _masked(self, u: Float[Array, " c"]) -> Float[Array, " c"]:
        return jnp.where(self.mask, u, 0)


def square_mv(factor: lx.AbstractLinearOperator, u: Float[Array, " c"]) -> Float[Array, " c"]:
    """S Sᵀ u for any operator S, in closed form if S is an `AbstractFactor`."""
    if isinstance(factor, AbstractFactor):
        return factor.square_mv(u)
    return factor.mv(factor.T.mv(u))


def _vector(size: int, like: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((size,), like.dtype)


def _is_diagonal(operator: lx.AbstractLinearOperator) -> bool:
    return isinstance(operator, DiagonalFactor)


def _false(operator: lx.AbstractLinearOperator) -> bool:
    del operator
    return False


def _itself(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    return operator


def _materialise(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    return lx.MatrixLinearOperator(operator.as_matrix())


# Lineax's property functions are `singledispatch`: each needs an entry for these classes.
for _class in (AbstractFactor, TransposedFactor):
    for _property in (
        lx.is_diagonal,
        lx.is_tridiagonal,
        lx.is_lower_triangular,
        lx.is_upper_triangular,
        lx.is_symmetric,
        lx.is_positive_semidefinite,
    ):
        _property.register(_class)(_is_diagonal)
    for _property in (lx.has_unit_diagonal, lx.is_negative_semidefinite):
        _property.register(_class)(_false)
    lx.linearise.register(_class)(_itself)
    lx.conj.register(_class)(_itself)
    lx.materialise.register(_class)(_materialise)
    lx.diagonal.register(_class)(lambda operator: jnp.diagonal(operator.as_matrix()))
    lx.tridiagonal.register(_class)(lambda operator: lx.tridiagonal(_materialise(operator)))
