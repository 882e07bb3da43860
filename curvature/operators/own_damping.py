import jax
from jaxtyping import Array, Float, PyTree, Scalar

from ._base import AbstractInvertibleOperator, AbstractPositiveOperator
from ._solved import Solved, solved_by_product


class OwnDampingOperator(AbstractInvertibleOperator):
    """The operator C, whose damped inverse is (C + λ₀I)⁻¹ for every λ."""

    operator: AbstractInvertibleOperator
    damping: Scalar

    def mv(self, vector: PyTree[Float[Array, "..."]]) -> PyTree[Float[Array, "..."]]:
        return self.operator.mv(vector)

    def as_matrix(self) -> Float[Array, "P P"]:
        return self.operator.as_matrix()

    def diagonal(self) -> Float[Array, " P"]:
        return self.operator.diagonal()

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        return self.operator.in_structure()

    def inverse(self, damping: Scalar) -> AbstractPositiveOperator:
        del damping
        return self.operator.inverse(self.damping)

    def solve(self, b: PyTree[Float[Array, "..."]], damping: Scalar) -> Solved:
        return solved_by_product(self.mv, damping, b, self.inverse(damping).mv(b))

    def describe(self) -> str:
        return self.operator.describe()
