"""The linear solve of a step, and the quadratic model along its solution."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Int, PyTree, Scalar

from ..._trees import add_scaled, norm, vdot
from ...momentum import Direction
from ...operators import DampedOperator
from ...solvers import name_of


class Solved(eqx.Module):
    """d = (C + λI)⁻¹(g + v), and what the solver says of it.

    - `direction`: d, and its numbers by g and the undamped C.
    - `grad_norm`: ‖g‖₂; the others as in [`Info`][].
    """

    direction: Direction
    grad_norm: Scalar
    residual: Scalar
    steps: Int[Array, ""]
    eigendecomposition: Bool[Array, ""]
    solver: str = eqx.field(static=True)


def solve(
    solver: lx.AbstractLinearSolver,
    operator: DampedOperator,
    grad: PyTree[Array],
    offset: PyTree[Array] | None,
    options: dict[str, Any],
) -> Solved:
    """Solves for the direction; a solve that does not converge is reported, not an error.

    **Arguments:** `offset`, v, None for 0; `options`, for the solver.
    """
    one = jnp.ones_like(operator.damping)
    vector = grad if offset is None else add_scaled(grad, one, offset)
    solution = lx.linear_solve(operator, vector, solver, options=options, throw=False)
    d, stats = solution.value, solution.stats
    if "metric" in stats:
        metric, residual = stats["metric"], stats["residual"]
    else:
        metric, residual = _metric(operator, vector, d, stats)
    # With an offset the solver's other numbers are for another vector, or of less precision.
    if "metric" in stats and offset is None and "offset" not in options:
        slope, squared_norm = stats["slope"], stats["squared_norm"]
        grad_norm = stats["vector_norm"]
    else:
        slope, squared_norm, grad_norm = vdot(d, grad), vdot(d, d), norm(grad)
    return Solved(
        direction=Direction(d, slope, metric, squared_norm),
        grad_norm=grad_norm,
        residual=residual,
        steps=jnp.asarray(stats.get("num_steps", 0), jnp.int32),
        eigendecomposition=jnp.asarray(stats.get("eigendecomposition", False)),
        solver=name_of(solver),
    )


def _metric(
    operator: DampedOperator,
    b: PyTree[Array],
    d: PyTree[Array],
    stats: dict[str, Any],
) -> tuple[Scalar, Scalar]:
    """dᵀCd and the relative residual, without a product where the solver knows enough."""
    slope = vdot(d, b)
    if "quadratic" in stats and "residual" in stats:
        quadratic = jnp.asarray(stats["quadratic"])
        residual = jnp.asarray(stats["residual"], slope.dtype)
    else:
        r = add_scaled(b, jnp.asarray(-1), operator.mv(d))
        quadratic = -(slope + vdot(d, r)) / 2
        residual = norm(r) / norm(b)
    # φ(d) = ½dᵀ(C+λI)d − bᵀd gives dᵀCd without a product. It is a difference: its error is
    # a few units of roundoff of λ‖d‖².
    damping = operator.damping.astype(slope.dtype)
    return jnp.maximum(2 * (quadratic + slope) - damping * vdot(d, d), 0), residual
