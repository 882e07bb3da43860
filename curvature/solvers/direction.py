"""The linear solve of a step, with the derivatives of the exact solution for every solver."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, PyTree

from .._trees import add_scaled, norm, stop_gradients, vdot
from ..operators import DampedOperator, OwnDampingOperator
from ._base import AbstractSymmetricSolver, RightHandSide, Solution, solve_with

_NOT_CONVERGED = (
    "The derivative of a step needs a linear solve that converges to finite numbers, and this "
    "solve did not. Allow the solver more steps, or use an exact solver."
)

_OWN_DAMPING = (
    "A step whose curvature is `OwnDamping(of, damping)` has no derivative, because it does not "
    "solve (C + λI)d = g with the λ of the step. Use `of` as the curvature, and its λ as the "
    "damping of the step."
)


@eqx.filter_custom_jvp
def solve(
    operator: DampedOperator,
    b: RightHandSide,
    start: PyTree[Array] | None,
    preconditioner: lx.AbstractLinearOperator | None,
    *,
    solver: lx.AbstractLinearSolver,
) -> Solution:
    """Solves (C + λI) d = b; if the solve does not converge, this is reported and not an error.

    The derivative is that of the exact solution, (C + λI)⁻¹(δb − δ(C + λI) d). It is computed by
    the same solver with the same preconditioner, as for any vector: a solver may use that b is a
    gradient, which this right-hand side is not. Start and preconditioner have no derivatives, since
    the exact solution does not depend on them.

    **Arguments:** `operator`, C + λI; `start`, the first iterate of an iterative solver, or None
    for zero; `preconditioner`, an approximation of (C + λI)⁻¹ for a solver that uses one, or None.
    """
    if isinstance(solver, AbstractSymmetricSolver):
        return solver.solve(operator, b, start, preconditioner)
    return solve_with(solver, operator, b.vector())


@solve.def_jvp
def _derivative(primals: Any, tangents: Any, *, solver: lx.AbstractLinearSolver) -> Any:
    operator, b, start, preconditioner = primals
    if isinstance(operator.operator, OwnDampingOperator):
        raise ValueError(_OWN_DAMPING)
    t_operator, t_b, *_ = tangents
    found = solve(operator, b, start, preconditioner, solver=solver)
    d = found.direction

    def residual(operator: DampedOperator, b: RightHandSide) -> PyTree[Array]:
        return add_scaled(b.vector(), -jnp.ones(()), operator.mv(d))

    _, change = eqx.filter_jvp(residual, (operator, b), (t_operator, t_b))
    failed = (found.result != lx.RESULTS.successful) | ~found.finite
    change = eqx.error_if(change, failed, _NOT_CONVERGED)
    options = {} if preconditioner is None else {"preconditioner": stop_gradients(preconditioner)}
    t_d = lx.linear_solve(operator, change, solver, options=options).value

    def numbers(d: PyTree[Array], operator: DampedOperator, b: RightHandSide) -> Any:
        vector, squared_norm = b.vector(), vdot(d, d)
        metric = vdot(d, operator.operator.mv(d))
        return vdot(d, vector), metric, squared_norm, norm(vector)

    _, t_numbers = eqx.filter_jvp(numbers, (d, operator, b), (t_d, t_operator, t_b))
    slope, metric, squared_norm, vector_norm = t_numbers
    return found, Solution(
        direction=t_d,
        slope=slope,
        metric=metric,
        squared_norm=squared_norm,
        vector_norm=vector_norm,
        residual=None,
        steps=None,  # pyright: ignore[reportArgumentType]
        result=jtu.tree_map(lambda _: None, found.result),
    )
