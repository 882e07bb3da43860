from typing import Any, TypeAlias

import lineax as lx
from jaxtyping import Array, PyTree

from ._base import Elementwise
from .cg import CG

# Up to this many parameters the dense matrix and its factor cost less than a few products do
# of dispatch, and the answer is exact.
_DENSE = 256

_AutoState: TypeAlias = tuple[lx.AbstractLinearSolver, Any]


class Auto(lx.AbstractLinearSolver):
    """Chooses a solver for C + λI from the structure and the size of the operator.

    - diagonal (`Identity`): divides, exactly;
    - at most 256 parameters: `lineax.Cholesky()`, exact;
    - else `cg`.
    """

    cg: CG = CG(rtol=1e-3, max_steps=30)

    def select(self, operator: lx.AbstractLinearOperator) -> lx.AbstractLinearSolver:
        """The solver that is used for `operator`."""
        if lx.is_diagonal(operator):
            return Elementwise()
        return lx.Cholesky() if operator.in_size() <= _DENSE else self.cg

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> _AutoState:
        solver = self.select(operator)
        return solver, solver.init(operator, options)

    def compute(
        self, state: _AutoState, vector: PyTree[Array], options: dict[str, Any]
    ) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
        solver, inner = state
        return solver.compute(inner, vector, options)

    def transpose(
        self, state: _AutoState, options: dict[str, Any]
    ) -> tuple[_AutoState, dict[str, Any]]:
        solver, inner = state
        inner, options = solver.transpose(inner, options)
        return (solver, inner), options

    def conj(self, state: _AutoState, options: dict[str, Any]) -> tuple[_AutoState, dict[str, Any]]:
        solver, inner = state
        inner, options = solver.conj(inner, options)
        return (solver, inner), options

    def assume_full_rank(self) -> bool:
        return True
