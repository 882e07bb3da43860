import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, Bool, Int, PyTree, Scalar

from .._trees import add_scaled, norm, vdot
from ..linearisation import AbstractLinearisation
from ..operators import DampedOperator, Solved, solved_by_product


class RightHandSide(eqx.Module):
    """The right-hand side b = Jᵀ cotangents + offset of a solve, not computed yet.

    A solver in the space of the samples need not compute the gradient's vector b.

    - `linearisation`, `cotangents`: J, and the cotangents of the loss, [n, ...] per term. If
      `cotangents` is None, b is the offset.
    - `offset`: a vector, or None for 0.
    """

    linearisation: AbstractLinearisation
    cotangents: tuple[Array, ...] | None
    offset: PyTree[Array] | None

    def vector(self) -> PyTree[Array]:
        """Computes the vector b."""
        if self.cotangents is None:
            return self.offset
        pulled_back = self.linearisation.vjp(self.cotangents)
        if self.offset is None:
            return pulled_back
        return add_scaled(pulled_back, jnp.ones(()), self.offset)

    def plus(self, offset: PyTree[Array] | None) -> "RightHandSide":
        """The right-hand side b + `offset`; None for 0."""
        if offset is None:
            return self
        if self.offset is not None:
            offset = add_scaled(offset, jnp.ones(()), self.offset)
        return RightHandSide(self.linearisation, self.cotangents, offset)


class Solution(eqx.Module):
    """The result of a solve of (C + λI) d = b.

    - `direction`: d.
    - `slope` dᵀb, `metric` dᵀCd with the undamped C, `squared_norm` ‖d‖², `vector_norm` ‖b‖.
    - `residual`: ‖b − (C + λI)d‖/‖b‖, 0 for b = 0. A direct solver estimates it. None if it is not
      computed.
    - `steps`: the number of products with C that the iteration or the refinement took.
    - `result`: how the solve ended.
    """

    direction: PyTree[Array]
    slope: Scalar
    metric: Scalar
    squared_norm: Scalar
    vector_norm: Scalar
    residual: Scalar | None
    steps: Int[Array, ""]
    result: lx.RESULTS

    @property
    def finite(self) -> Bool[Array, ""]:
        """Whether b, the matrix and d are finite.

        Conjugate gradients keep their finite start if the matrix is not, and say so in `result`.
        """
        norms = jnp.isfinite(self.vector_norm) & jnp.isfinite(self.squared_norm)
        return norms & (self.result != lx.RESULTS.nonfinite_input)


class AbstractSymmetricSolver(lx.AbstractLinearSolver):
    """A solver for real symmetric positive definite operators, which equal their transpose."""

    @abc.abstractmethod
    def solve(
        self,
        operator: DampedOperator,
        b: RightHandSide,
        start: PyTree[Array] | None,
        preconditioner: lx.AbstractLinearOperator | None = None,
    ) -> Solution:
        """Solves (C + λI) d = b for a step.

        **Arguments:** `start`, the first iterate of an iterative solver, None for zero;
        `preconditioner`, an approximation of (C + λI)⁻¹, or None. A direct solver ignores both.
        """

    def transpose(self, state: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return state, options

    def conj(self, state: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return state, options

    def assume_full_rank(self) -> bool:
        return True


class Elementwise(AbstractSymmetricSolver):
    """Solves diagonal systems leaf by leaf; `lineax.Diagonal` would copy all leaves to one vector.

    Here 0/0 = 0: a weight whose curvature, λ and gradient are all zero does not change.
    """

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> PyTree[Array]:
        del options
        ones = jtu.tree_map(lambda s: jnp.ones(s.shape, s.dtype), operator.in_structure())
        return operator.mv(ones)

    def compute(
        self, state: PyTree[Array], vector: PyTree[Array], options: dict[str, Any]
    ) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
        del options
        x = jtu.tree_map(_quotient, vector, state)
        return x, lx.RESULTS.successful, {"num_steps": 0}

    def solve(
        self,
        operator: DampedOperator,
        b: RightHandSide,
        start: PyTree[Array] | None,
        preconditioner: lx.AbstractLinearOperator | None = None,
    ) -> Solution:
        del start, preconditioner
        return solve_with(self, operator, b.vector())


def _quotient(b: Array, d: Array) -> Array:
    nothing = (b == 0) & (d == 0)
    return b / jnp.where(nothing, 1, d)


def relative_residual(residual: Scalar, vector_norm: Scalar) -> Scalar:
    """The residual divided by ‖b‖; 0 for b = 0, where every solver returns d = 0."""
    return jnp.where(vector_norm == 0, 0, residual / jnp.where(vector_norm == 0, 1, vector_norm))


def solve_with(
    solver: lx.AbstractLinearSolver, operator: DampedOperator, vector: PyTree[Array]
) -> Solution:
    """The solution by any direct solver; `residual` and `metric` cost one product with C."""
    d, result, stats = solver.compute(solver.init(operator, {}), vector, {})
    solved = solved_by_product(operator.operator.mv, operator.damping, vector, d)
    return solution_of(solved, vector, stats.get("num_steps", 0), result)


def solution_of(solved: Solved, vector: PyTree[Array], steps: Any, result: lx.RESULTS) -> Solution:
    """The `Solution` for the right-hand side `vector`; `solved` has the numbers that need C."""
    d = solved.direction
    b_norm = norm(vector) if solved.squared_vector is None else jnp.sqrt(solved.squared_vector)
    return Solution(
        direction=d,
        slope=vdot(d, vector) if solved.slope is None else solved.slope,
        metric=solved.metric,
        squared_norm=vdot(d, d),
        vector_norm=b_norm,
        residual=relative_residual(jnp.sqrt(solved.squared_residual), b_norm),
        steps=jnp.asarray(steps, jnp.int32),
        result=result,
    )
