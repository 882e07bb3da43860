from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
import optax
import optimistix as optx
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree, Scalar

from .._checks import positive_int
from .._trees import add_scaled, like, norm, vdot
from ..backends import AbstractCurvature, GaussNewton
from ..damping import AbstractDamping, ConstantDamping
from ..objective import AbstractObjective
from ..operators import DampedOperator, PullbackOperator, damped
from ..searches import evaluates, init_search, search_along
from ..solvers import Auto, Plan, name_of, plan_for
from ._base import (
    RESULTS,
    AbstractOptimiser,
    Info,
    Mask,
    as_filter,
    result_where,
    select,
    split,
    trainable_mask,
)


class NaturalGradientState(eqx.Module):
    """Carried from step to step: the next λ, the state of the search, and d for warm starts."""

    damping: Scalar
    search: PyTree[Array]
    direction: PyTree[Array] | None
    mask: Mask = eqx.field(static=True)


class _Solve(eqx.Module):
    """d = (C + λI)⁻¹g and the numbers of the quadratic model along it."""

    direction: PyTree[Array]
    slope: Scalar  # dᵀg
    metric: Scalar  # dᵀCd
    norm: Scalar
    grad_norm: Scalar
    residual: Scalar
    steps: Array
    eigendecomposition: Bool[Array, ""]
    solver: str = eqx.field(static=True)


class NaturalGradient(AbstractOptimiser):
    """w ← w − s·d with d = (C + λI)⁻¹ g: natural gradient, Gauss–Newton, Hessian-free.

    - `curvature` makes C, `damping` chooses λ, `solver` solves for d, `search` chooses s.
    - The linear solve may be truncated: its failure to converge is reported, not an error.
    - The quadratic model of the loss along d is m(s) = L − s dᵀg + ½s² dᵀCd, with the *undamped*
      C; a step for which it predicts no reduction is rejected, as is one whose loss, gradient or
      direction is not finite.

    **Arguments:**

    - `objective`: see `Supervised` and `Objective`.
    - `curvature`: default `GaussNewton()`.
    - `solver`: any lineax solver for positive definite operators; default `Auto()`.
    - `damping`: λ as a number, or an `AbstractDamping`; default 1e-3.
    - `search`: any optimistix search; default `optimistix.LearningRate(1.0)`.
    - `max_search_steps`: the most step sizes a search may try on one batch.
    - `warm_start`: iterative solvers start from this multiple of the last direction (Martens 2010
      uses 0.95), 0 to start from zero. A start other than zero costs one product more.
    """

    objective: AbstractObjective
    curvature: AbstractCurvature
    solver: lx.AbstractLinearSolver
    damping: AbstractDamping
    search: optx.AbstractSearch
    max_search_steps: int = eqx.field(static=True)
    warm_start: float = eqx.field(static=True)

    def __init__(
        self,
        objective: AbstractObjective,
        curvature: AbstractCurvature | None = None,
        solver: lx.AbstractLinearSolver | None = None,
        damping: AbstractDamping | Any = 1e-3,
        search: optx.AbstractSearch | None = None,
        max_search_steps: int = 10,
        warm_start: float = 0.0,
    ):
        self.objective = objective
        self.curvature = GaussNewton() if curvature is None else curvature
        self.solver = Auto() if solver is None else solver
        is_policy = isinstance(damping, AbstractDamping)
        self.damping = damping if is_policy else ConstantDamping(damping)
        self.search = optx.LearningRate(1.0) if search is None else search
        self.max_search_steps = max_search_steps
        self.warm_start = warm_start

    def __check_init__(self):
        positive_int("NaturalGradient(max_search_steps=...)", self.max_search_steps)
        if not 0 <= self.warm_start <= 1:
            raise ValueError(
                f"`NaturalGradient(warm_start=...)` must lie in [0, 1], got {self.warm_start}."
            )

    def init(self, model: PyTree, trainable: PyTree = eqx.is_inexact_array) -> NaturalGradientState:
        params = eqx.filter(model, trainable)
        dtype = jnp.result_type(*jtu.tree_leaves(params))
        zeros = jtu.tree_map(jnp.zeros_like, params)
        f_info = optx.FunctionInfo.EvalGradHessian(
            jnp.zeros((), dtype), zeros, lx.IdentityLinearOperator(jax.eval_shape(lambda: zeros))
        )
        return NaturalGradientState(
            damping=self.damping.init(dtype),
            search=init_search(self.search, params, f_info),
            direction=zeros if self.warm_start else None,
            mask=trainable_mask(model, trainable),
        )

    @eqx.filter_jit
    def step(
        self,
        model: PyTree,
        batch: PyTree,
        state: NaturalGradientState,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[PyTree, NaturalGradientState, Info]:
        model_key, curvature_key = split(key)
        trainable = as_filter(model, state.mask)
        params, frozen = eqx.partition(model, trainable)
        linearisation = self.objective.linearise(model, batch, trainable=trainable, key=model_key)
        loss, grad = linearisation.loss, linearisation.grad
        operator = self.curvature.operator(linearisation, key=curvature_key)
        solve = self._solve(damped(operator, state.damping), grad, state.direction)

        def predicted_reduction(s: Scalar) -> Scalar:
            return s * solve.slope - s**2 * solve.metric / 2

        found = search_along(
            self.search,
            state.search,
            params,
            solve.direction,
            optx.FunctionInfo.EvalGradHessian(loss, grad, operator),
            loss=lambda w: self.objective.loss(eqx.combine(w, frozen), batch, key=model_key),
            predicted_reduction=predicted_reduction,
            max_steps=self.max_search_steps,
            evaluate=self.damping.needs_reduction_ratio(),
        )
        s, predicted = found.step_size, predicted_reduction(found.step_size)
        evaluated = evaluates(self.search) or self.damping.needs_reduction_ratio()
        lost = evaluated & ~jnp.isfinite(found.reduction)
        grad_norm = solve.grad_norm
        result = result_where(
            (~jnp.isfinite(loss), RESULTS.nonfinite_loss),
            (~jnp.isfinite(grad_norm), RESULTS.nonfinite_gradient),
            (~jnp.isfinite(solve.norm), RESULTS.nonfinite_direction),
            (grad_norm == 0, RESULTS.stationary),
            (found.accepted & ~(predicted > 0), RESULTS.no_reduction),
            (found.accepted & lost, RESULTS.nonfinite_candidate),
            (~found.accepted, RESULTS.search_exhausted),
        )
        accepted = result == RESULTS.successful
        # What a search learns of a batch that has no finite model is not worth carrying on.
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & jnp.isfinite(solve.norm)
        taken = jnp.where(accepted, s, 0)
        ratio = found.reduction / predicted
        new_params = select(accepted, add_scaled(params, -s, solve.direction), params)
        new_state = NaturalGradientState(
            damping=self.damping.update(state.damping, reduction_ratio=ratio, accepted=accepted),
            search=select(finite, found.state, state.search),
            direction=None if state.direction is None else _kept(accepted, solve.direction),
            mask=state.mask,
        )
        info = Info(
            loss=loss,
            grad_norm=grad_norm,
            step_norm=taken * solve.norm,
            damping=state.damping,
            solver=solve.solver,
            solver_steps=solve.steps,
            solver_residual=solve.residual,
            eigendecomposition=solve.eigendecomposition,
            reduction_ratio=ratio,
            metric_step=taken**2 * solve.metric / 2,
            accepted=accepted,
            result=result,
        )
        return eqx.combine(like(new_params, params), frozen), like(new_state, state), info

    def plan(
        self,
        model: PyTree,
        batch: PyTree,
        trainable: PyTree = eqx.is_inexact_array,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Plan:
        plans: list[Plan] = []

        def trace(model: PyTree, batch: PyTree, key: PRNGKeyArray | None) -> None:
            model_key, curvature_key = split(key)
            linearisation = self.objective.linearise(
                model, batch, trainable=trainable, key=model_key
            )
            operator = self.curvature.operator(linearisation, key=curvature_key)
            plans.append(self._plan(damped(operator, self.damping.init(linearisation.loss.dtype))))

        eqx.filter_eval_shape(trace, model, batch, key)
        return plans[0]

    def _plan(self, operator: DampedOperator) -> Plan:
        return plan_for(self.solver, operator, positive_damping=self.damping.is_positive())

    def _solve(
        self, operator: DampedOperator, grad: PyTree[Array], last: PyTree[Array] | None
    ) -> _Solve:
        options: dict[str, Any] = {}
        if last is not None:
            options["y0"] = optax.tree.scale(self.warm_start, last)
        if isinstance(operator.operator, PullbackOperator):
            options |= operator.operator.gradient_options()
        solver = self.solver
        if isinstance(solver, Auto):
            solver = self._plan(operator).solver
        solution = lx.linear_solve(operator, grad, solver, options=options, throw=False)
        numbers = _numbers(operator, grad, solution.value, solution.stats)
        return _Solve(
            direction=solution.value,
            slope=numbers["slope"],
            metric=numbers["metric"],
            norm=jnp.sqrt(numbers["squared_norm"]),
            grad_norm=numbers["vector_norm"],
            residual=numbers["residual"],
            steps=jnp.asarray(solution.stats.get("num_steps", 0), jnp.int32),
            eigendecomposition=jnp.asarray(solution.stats.get("eigendecomposition", False)),
            solver=name_of(solver),
        )


def _numbers(
    operator: DampedOperator, grad: PyTree[Array], d: PyTree[Array], stats: dict[str, Any]
) -> dict[str, Array]:
    """The numbers of the quadratic model along d, as far as the solver does not know them."""
    if "metric" in stats:  # without a pass over the weights
        return stats
    slope, squared_norm, grad_norm = vdot(d, grad), vdot(d, d), norm(grad)
    if "quadratic" in stats and "residual" in stats:
        quadratic = jnp.asarray(stats["quadratic"])
        residual = jnp.asarray(stats["residual"], slope.dtype)
    else:
        r = add_scaled(grad, jnp.asarray(-1), operator.mv(d))
        quadratic = -(slope + vdot(d, r)) / 2
        residual = norm(r) / grad_norm
    # φ(d) = ½dᵀ(C+λI)d − gᵀd gives dᵀCd without a product. It is a difference: its error is
    # a few units of roundoff of λ‖d‖².
    damping = operator.damping.astype(slope.dtype)
    metric = jnp.maximum(2 * (quadratic + slope) - damping * squared_norm, 0)
    return {
        "slope": slope,
        "metric": metric,
        "squared_norm": squared_norm,
        "vector_norm": grad_norm,
        "residual": residual,
    }


def _kept(accepted: Array, direction: PyTree[Array]) -> PyTree[Array]:
    """The direction to start the next solve from: zero after a step that was rejected."""
    return select(accepted, direction, jtu.tree_map(jnp.zeros_like, direction))
