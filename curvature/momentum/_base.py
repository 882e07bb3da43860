import abc

import equinox as eqx
import lineax as lx
from jaxtyping import Array, PyTree, Scalar


class Direction(eqx.Module):
    """A direction d, and the quadratic model of the loss along d, L − s dᵀg + ½s² dᵀCd.

    - `vector`: d; `slope`: dᵀg; `metric`: dᵀCd with the undamped C; `squared_norm`: ‖d‖².
    """

    vector: PyTree[Array]
    slope: Scalar
    metric: Scalar
    squared_norm: Scalar


class AbstractMomentum(eqx.Module):
    """Combines the previous direction φ with the new one; φ is zero at first and after a rejection.

    A policy acts before the solve, after it, or both.
    """

    @abc.abstractmethod
    def uses_last(self) -> bool:
        """Whether the previous direction is used; if not, `last` is None in the other methods."""

    @abc.abstractmethod
    def start(self, last: PyTree[Array] | None) -> PyTree[Array] | None:
        """The first iterate of an iterative solver; None for zero."""

    @abc.abstractmethod
    def offset(self, last: PyTree[Array] | None, damping: Scalar) -> PyTree[Array] | None:
        """The v to add to g before the solve: (C + λI) d = g + v; None for 0.

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

        **Arguments:** `found`, the solution of the solve; `last`, φ; `grad`, g; `operator`, the
        undamped C; `damping`, λ.
        """
