from typing import Any

import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, PyTree

from .._trees import norm, vdot
from ..operators import DampedOperator, quadratic_forms
from ._base import AbstractSymmetricSolver, RightHandSide, Solution

NO_PRECONDITIONER = (
    "`Preconditioned()` needs a preconditioner, got none. Set `preconditioner=...` to a "
    "structure, such as `KFAC(GaussNewton())` (on the command line `preconditioner=kfac`), or "
    "use another solver, such as `Auto()` (`solver=auto`)."
)


class Preconditioned(AbstractSymmetricSolver):
    """The preconditioned vector d = M b, without a product with C; M ≈ (C + λI)⁻¹.

    The residual is not computed, so the result is `RESULTS.max_steps_reached`, as for any truncated
    solve. With `QuadraticMomentum`, which computes the step length along d, a step is that of K-FAC
    (Martens and Grosse 2015, sections 6.4 and 7). `CG(max_steps=1)` has the same direction, but
    takes a product with C and one more product with M to compute the residual.

    **Options:** `preconditioner`, M, a positive definite operator.
    """

    def init(
        self, operator: lx.AbstractLinearOperator, options: dict[str, Any]
    ) -> lx.AbstractLinearOperator:
        del operator
        if "preconditioner" not in options:
            raise ValueError(NO_PRECONDITIONER)
        return options["preconditioner"]

    def compute(
        self, state: lx.AbstractLinearOperator, vector: PyTree[Array], options: dict[str, Any]
    ) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
        del options
        return state.mv(vector), lx.RESULTS.max_steps_reached, {"num_steps": 0}

    def solve(
        self,
        operator: DampedOperator,
        b: RightHandSide,
        start: PyTree[Array] | None,
        preconditioner: lx.AbstractLinearOperator | None = None,
    ) -> Solution:
        del start
        if preconditioner is None:
            raise ValueError(NO_PRECONDITIONER)
        vector = b.vector()
        d = preconditioner.mv(vector)
        return Solution(
            direction=d,
            slope=vdot(d, vector),
            # If the momentum computes its own dᵀCd, this one is not used, and XLA removes it.
            metric=jnp.maximum(quadratic_forms(operator.operator, (d,))[0, 0], 0),
            squared_norm=vdot(d, d),
            vector_norm=norm(vector),
            residual=None,
            steps=jnp.zeros((), jnp.int32),
            result=lx.RESULTS.max_steps_reached,
        )
