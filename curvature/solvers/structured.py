from typing import Any

import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, PyTree, Scalar

from ..operators import AbstractInvertibleOperator, AbstractPositiveOperator, DampedOperator
from ._base import AbstractSymmetricSolver, RightHandSide, Solution, solution_of

_NO_INVERSE = (
    "`Structured()` needs a curvature with a damped inverse, and `{found}` has none. Give the "
    "curvature a structure, such as `Diagonal(of)` (on the command line `structure=diagonal`), "
    "or use another solver, such as `Auto()` (`solver=auto`)."
)


class Structured(AbstractSymmetricSolver):
    """Solves with the damped inverse of a structure, such as `Diagonal`; exact up to rounding.

    Needs λ > 0. With λ = 0 and C singular, the solution is not finite: lineax then reports a
    singular operator, and a step is rejected. `Auto` uses another solver if λ may be zero.
    """

    def init(
        self, operator: lx.AbstractLinearOperator, options: dict[str, Any]
    ) -> AbstractPositiveOperator:
        del options
        structure, damping = _split(operator)
        return structure.inverse(damping)

    def compute(
        self, state: AbstractPositiveOperator, vector: PyTree[Array], options: dict[str, Any]
    ) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
        del options
        return state.mv(vector), lx.RESULTS.successful, {"num_steps": 0}

    def solve(
        self,
        operator: DampedOperator,
        b: RightHandSide,
        start: PyTree[Array] | None,
        preconditioner: lx.AbstractLinearOperator | None = None,
    ) -> Solution:
        del start, preconditioner
        structure, damping = _split(operator)
        vector = b.vector()
        of_loss = b.cotangents is not None and b.offset is None
        solve = structure.solve_gradient if of_loss else structure.solve
        return solution_of(solve(vector, damping), vector, 0, lx.RESULTS.successful)


def _split(operator: lx.AbstractLinearOperator) -> tuple[AbstractInvertibleOperator, Scalar]:
    """The structure and λ of a damped structure; λ = 0 without damping."""
    damping = jnp.zeros(())
    if isinstance(operator, DampedOperator):
        operator, damping = operator.operator, operator.damping
    if not isinstance(operator, AbstractInvertibleOperator):
        raise ValueError(_NO_INVERSE.format(found=type(operator).__name__))
    return operator, damping
