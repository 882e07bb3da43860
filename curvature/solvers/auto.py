from typing import Any, TypeAlias

import lineax as lx
from jax.core import Tracer
from jaxtyping import Array, PyTree

from ..operators import DampedOperator
from ._base import Elementwise
from .cg import CG
from .plan import Plan, Prospect
from .sample_space import SampleSpace

_AutoState: TypeAlias = tuple[lx.AbstractLinearSolver, Any]


class Auto(lx.AbstractLinearSolver):
    """Chooses the cheapest solver for C + λI from its structure, m, P and whether λ may be 0.

    - A diagonal operator (`Identity`) is divided by, exactly.
    - Else the cheapest of `sample_space` (exact; where C is made of rows, within its bounds),
      `lineax.Cholesky()` (exact; unless λ may be zero, when C + λI may be singular) and `cg` (at
      the most steps that it may take), by the operations that they are predicted to need.

    `plan` says what is chosen, and why.
    """

    cg: CG = CG(rtol=1e-3, max_steps=30)
    sample_space: SampleSpace = SampleSpace()

    def plan(
        self, operator: lx.AbstractLinearOperator, *, positive_damping: bool | None = None
    ) -> Plan:
        """The solver that is used for `operator`, and the predicted costs of all that could be.

        **Arguments:** `positive_damping`, whether λ > 0; by default as `operator` has it, and
        true where that is traced.
        """
        prospect = Prospect(operator)
        if prospect.diagonal:
            return prospect.plan(Elementwise())
        if positive_damping is None:
            positive_damping = _is_positive(operator)
        possible: list[lx.AbstractLinearSolver] = [self.cg]
        if prospect.layout is not None and self.sample_space.refusal(prospect.layout) is None:
            possible.insert(0, self.sample_space)
            # With λ = 0, conjugate gradients have no end that they are sure to reach.
            possible = possible if positive_damping else possible[:1]
        if positive_damping:
            possible.insert(0, lx.Cholesky())
        chosen = min(possible, key=lambda solver: prospect.gradients(solver) or 0)
        return prospect.plan(chosen, tuple(other for other in possible if other is not chosen))

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> _AutoState:
        solver = self.plan(operator).solver
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


def _is_positive(operator: lx.AbstractLinearOperator) -> bool:
    if not isinstance(operator, DampedOperator) or isinstance(operator.damping, Tracer):
        return True
    return bool(operator.damping > 0)


def plan_for(
    solver: lx.AbstractLinearSolver,
    operator: lx.AbstractLinearOperator,
    *,
    positive_damping: bool,
) -> Plan:
    """What a solver will do with an operator: its choice, where it chooses."""
    if isinstance(solver, Auto):
        return solver.plan(operator, positive_damping=positive_damping)
    return Prospect(operator).plan(solver)
