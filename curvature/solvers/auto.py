from typing import Any, TypeAlias

import lineax as lx
from jaxtyping import Array, PyTree

from ..operators import AbstractInvertibleOperator, DampedOperator, PullbackOperator
from ._base import Elementwise
from .cg import CG
from .preconditioned import NO_PRECONDITIONER, Preconditioned
from .sample_space import SampleSpace
from .structured import Structured

_AutoState: TypeAlias = tuple[lx.AbstractLinearSolver, Any]

# For so many weights, a dense factorisation takes about one second and 64 MiB.
_MOST_DENSE = 4096


class Auto(lx.AbstractLinearSolver):
    """Chooses a solver for C + λI by the first of these rules that applies.

    1. There is a preconditioner: `cg`, the only solver of these that uses one.
    2. C is diagonal (`Identity`, `Diagonal`): division, exact. With λ = 0, 0/0 is 0.
    3. C is another structure (`KFAC`, `BlockDiagonal`, …): its own damped inverse, exact. If λ may
       be zero, `cg`.
    4. There are at most 4,096 weights, and C is dense or has at least as many rows as weights:
       `lineax.Cholesky()`, exact. Not if λ may be zero, since C + λI may then be singular.
    5. C is made of rows, at most `sample_space.max_rows`, which fit into `sample_space.max_memory`;
       and there are fewer rows than weights, or λ may be zero: `sample_space`, exact.
    6. Otherwise `cg`.

    The rules use only the number of rows m, the number of weights P and the kind of C, so the
    choice does not depend on versions or devices. `opt.plan(...)` returns the chosen solver and its
    predicted cost.
    """

    cg: CG = CG(rtol=1e-3, max_steps=30)
    sample_space: SampleSpace = SampleSpace(max_rows=4096)

    def choose(
        self,
        operator: lx.AbstractLinearOperator,
        *,
        positive_damping: bool | None = None,
        preconditioned: bool = False,
    ) -> lx.AbstractLinearSolver:
        """The solver that is used for `operator`.

        **Arguments:** `positive_damping`, whether λ > 0; by default, whether `damped` did not get a
        λ that is known to be 0; `preconditioned`, whether there is a preconditioner.
        """
        if preconditioned:
            return self.cg
        if lx.is_diagonal(operator):
            return Elementwise()
        if positive_damping is None:
            positive_damping = not (isinstance(operator, DampedOperator) and operator.is_zero)
        inner = operator.operator if isinstance(operator, DampedOperator) else operator
        if isinstance(inner, AbstractInvertibleOperator):
            return Structured() if positive_damping and inner is not operator else self.cg
        parameters = operator.in_size()
        small = positive_damping and parameters <= _MOST_DENSE
        if not isinstance(inner, PullbackOperator):
            return lx.Cholesky() if small else self.cg
        layout = inner.layout()
        if small and layout.size >= parameters:
            return lx.Cholesky()
        fits = self.sample_space.refusal(layout) is None
        fewer = layout.size < parameters or not positive_damping
        return self.sample_space if fits and fewer else self.cg

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> _AutoState:
        solver = self.choose(operator, preconditioned="preconditioner" in options)
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


def choose_solver(
    solver: lx.AbstractLinearSolver,
    operator: lx.AbstractLinearOperator,
    *,
    positive_damping: bool,
    preconditioned: bool = False,
) -> lx.AbstractLinearSolver:
    """`solver`, or the choice of `solver` if it is an `Auto`; arguments as for `Auto.choose`."""
    if isinstance(solver, Auto):
        return solver.choose(
            operator, positive_damping=positive_damping, preconditioned=preconditioned
        )
    return solver


def check_preconditioned(solver: lx.AbstractLinearSolver, preconditioned: bool) -> None:
    """Raise if `solver` cannot use the preconditioner, or needs one and there is none."""
    if preconditioned and not isinstance(solver, Auto | CG | Preconditioned):
        raise ValueError(
            f"The solver `{type(solver).__name__}` does not take a preconditioner, got "
            "`preconditioner=...`. Use `solver=CG(...)`, `Preconditioned()`, or `Auto()`, which "
            "then chooses its `cg`; or leave the preconditioner out."
        )
    if isinstance(solver, Preconditioned) and not preconditioned:
        raise ValueError(NO_PRECONDITIONER)
