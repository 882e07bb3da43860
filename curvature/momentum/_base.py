import abc

import equinox as eqx
import lineax as lx
from jaxtyping import Array, PyTree, Scalar


class Direction(eqx.Module):
    """A direction d, and the quadratic model of the loss along it, L − s dᵀg + ½s² dᵀCd.

    - `vector`: d; `slope`: dᵀg; `metric`: dᵀCd with the undamped C; `squared_norm`: ‖d‖².
    """

    vector: PyTree[Array]
    slope: Scalar
    metric: Scalar
    squared_norm: Scalar


class AbstractMomentum(eqx.Module):
    """Lets the last direction φ have a say in the next one; φ = 0 at first, and after a rejection.

    A policy acts before the solve, after it, or both.
    """

    @abc.abstractmethod
    def remembers(self) -> bool:
        """Whether the last direction is looked at; if not, it is None below."""

    @abc.abstractmethod
    def offset(self, last: PyTree[Array] | None, damping: Scalar) -> PyTree[Array] | None:
        """v, where the solve is to be for g + v instead of g; None for 0.

        **Arguments:** `last`, φ; `damping`, λ.
        """

    @abc.abstractmethod
    def combine(
        self,
        found: Direction,
        last: PyTree[Array] | None,
        grad: PyTree[Array],
        operator: lx.AbstractLinearOperator,
        damping: Scalar,
    ) -> Direction:
        """The direction to take.

        **Arguments:** `found`, what was solved for; `last`, φ; `grad`, g; `operator`, the undamped
        C; `damping`, λ.
        """
