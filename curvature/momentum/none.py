import lineax as lx
from jaxtyping import Array, PyTree, Scalar

from ._base import AbstractMomentum, Direction


class NoMomentum(AbstractMomentum):
    """No momentum: the direction is the solution for the batch."""

    def uses_last(self) -> bool:
        return False

    def start(self, last: PyTree[Array] | None) -> None:
        del last

    def offset(self, last: PyTree[Array] | None, damping: Scalar) -> None:
        del last, damping

    def combine(
        self,
        found: Direction,
        last: PyTree[Array] | None,
        grad: PyTree[Array],
        operator: lx.AbstractLinearOperator,
        damping: Scalar,
    ) -> Direction:
        del last, grad, operator, damping
        return found
