from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
import optax
import optimistix as optx
from jaxtyping import Array, Int, PRNGKeyArray, PyTree, Scalar, ScalarLike

from ..._checks import fraction, positive_int
from ..._precision import full_precision
from ..._trees import add_scaled, like, norm, scaled, vdot
from ...backends import AbstractCurvature, GaussNewton
from ...damping import AbstractDamping, ConstantDamping
from ...linearisation import Linearisation
from ...momentum import AbstractMomentum, Direction, NoMomentum
from ...objective import AbstractObjective
from ...operators import DampedOperator, PullbackOperator, damped
from ...searches import evaluates, init_search, search_along
from ...solvers import Auto, Plan, plan_for
from .._base import (
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
from .average import MetricAverage, averaged_with, no_average
from .judge import LastStep, judge
from .solve import Solved, solve


class NaturalGradientState(eqx.Module):
    """Carried from step to step.

    - `steps`: how many were made, rejected ones included; `damping`: the next λ.
    - `search`: the state of the search; `direction`: d, for momentum and warm starts.
    - `last`: the last step, where the damping judges it on the next batch.
    - `metric`: the average of C, where there is one.
    """

    steps: Int[Array, ""]
    damping: Scalar
    search: PyTree[Array]
    direction: PyTree[Array] | None
    last: LastStep | None
    metric: MetricAverage | None
    mask: Mask = eqx.field(static=True)


class NaturalGradient(AbstractOptimiser):
    """w ← w − s·d with d = (C + λI)⁻¹ g: natural gradient, Gauss–Newton, Hessian-free.

    - `curvature` makes C, `damping` chooses λ, `solver` solves for d, `momentum` lets the last
      direction have a say in it, `search` chooses s.
    - The linear solve may be truncated: its failure to converge is reported, not an error.
    - The quadratic model of the loss along d is m(s) = L − s dᵀg + ½s² dᵀCd, with the *undamped*
      C; a step for which it predicts no reduction is rejected, as is one whose loss, gradient or
      direction is not finite.
    - An objective with an `l2` has C + l2·I in the place of C, in the solve and in the model.

    **Arguments:**

    - `objective`: see `Supervised` and `Objective`.
    - `curvature`: default `GaussNewton()`.
    - `solver`: any lineax solver for positive definite operators; default `Auto()`.
    - `damping`: λ as a number, or an `AbstractDamping`; default 1e-3.
    - `search`: any optimistix search; default `optimistix.LearningRate(1.0)`.
    - `momentum`: default `NoMomentum()`.
    - `max_search_steps`: the most step sizes a search may try on one batch.
    - `warm_start`: iterative solvers start from this multiple of the last direction (Martens 2010
      uses 0.95), 0 to start from zero. A start other than zero costs one product more.
    - `curvature_batch`: C is made of the first so many examples of the batch (of each term), the
      gradient of all of them; default None, all; a batch may have fewer. An exact solve in sample
      space costs more then: it does not know the gradient to be made of the rows of C.
    - `metric_decay`: β in (0, 1): in the place of C stands the exponential average of the metrics
      of all steps, (1 − β) Σ_s β^(t−s) C_s / (1 − β^t), each at the weights of its time. It calms a
      sampled curvature. The average is a dense P × P matrix, hence for small models alone; default
      None, no average.
    """

    objective: AbstractObjective
    curvature: AbstractCurvature
    solver: lx.AbstractLinearSolver
    damping: AbstractDamping
    search: optx.AbstractSearch
    momentum: AbstractMomentum
    max_search_steps: int = eqx.field(static=True)
    warm_start: float = eqx.field(static=True)
    curvature_batch: int | None = eqx.field(static=True)
    metric_decay: Scalar | None

    def __init__(
        self,
        objective: AbstractObjective,
        curvature: AbstractCurvature | None = None,
        solver: lx.AbstractLinearSolver | None = None,
        damping: AbstractDamping | Any = 1e-3,
        search: optx.AbstractSearch | None = None,
        momentum: AbstractMomentum | None = None,
        max_search_steps: int = 10,
        warm_start: float = 0.0,
        curvature_batch: int | None = None,
        metric_decay: ScalarLike | None = None,
    ):
        self.objective = objective
        self.curvature = GaussNewton() if curvature is None else curvature
        self.solver = Auto() if solver is None else solver
        is_policy = isinstance(damping, AbstractDamping)
        self.damping = damping if is_policy else ConstantDamping(damping)
        self.search = optx.LearningRate(1.0) if search is None else search
        self.momentum = NoMomentum() if momentum is None else momentum
        self.max_search_steps = max_search_steps
        self.warm_start = warm_start
        self.curvature_batch = curvature_batch
        self.metric_decay = None if metric_decay is None else jnp.asarray(metric_decay)

    def __check_init__(self):
        positive_int("NaturalGradient(max_search_steps=...)", self.max_search_steps)
        if self.curvature_batch is not None:
            positive_int("NaturalGradient(curvature_batch=...)", self.curvature_batch)
        if self.metric_decay is not None:
            fraction("NaturalGradient(metric_decay=...)", self.metric_decay, positive=True)
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
        last = None
        if self.damping.judges_on_next_batch():
            last = LastStep.none(params, dtype)
        return NaturalGradientState(
            steps=jnp.zeros((), jnp.int32),
            damping=self.damping.init(dtype),
            search=init_search(self.search, params, f_info),
            direction=zeros if self.warm_start or self.momentum.remembers() else None,
            last=last,
            metric=None if self.metric_decay is None else no_average(params),
            mask=trainable_mask(model, trainable),
        )

    @eqx.filter_jit
    @full_precision
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

        def loss_at(w: PyTree[Array]) -> Scalar:
            return self.objective.loss(eqx.combine(w, frozen), batch, key=model_key)

        linearisation = self.objective.linearise(model, batch, trainable=trainable, key=model_key)
        loss, grad = linearisation.loss, linearisation.grad
        operator = self._operator(linearisation, model, batch, trainable, model_key, curvature_key)
        metric = state.metric
        if metric is not None and self.metric_decay is not None:
            metric, operator = averaged_with(metric, operator, self.metric_decay)
        damping, ratio, last = state.damping, jnp.full_like(loss, jnp.nan), state.last
        if last is not None:
            last, ratio = judge(last, params, loss, loss_at)
            updated = self.damping.update(damping, reduction_ratio=ratio, accepted=last.accepted)
            # A batch without a finite loss says nothing of the step before it.
            judged = (state.steps > 0) & jnp.isfinite(loss)
            damping = jnp.where(judged, updated, damping)
        damping = self.damping.begin(
            damping, step=state.steps, scale=lambda: _rayleigh(linearisation, operator)
        )
        solved = self._solve(operator, linearisation, damping, state.direction)
        l2 = self.objective.l2
        # Of the loss with its penalty.
        hessian = operator if l2 is None else damped(operator, l2)
        direction = _with_penalty(solved.direction, l2)
        direction = self.momentum.combine(direction, state.direction, grad, hessian, damping)
        direction_norm = jnp.sqrt(direction.squared_norm)

        def predicted_reduction(s: Scalar) -> Scalar:
            return s * direction.slope - s**2 * direction.metric / 2

        on_own_batch = self.damping.needs_reduction_ratio() and state.last is None
        found = search_along(
            self.search,
            state.search,
            params,
            direction.vector,
            optx.FunctionInfo.EvalGradHessian(loss, grad, hessian),
            loss=loss_at,
            predicted_reduction=predicted_reduction,
            max_steps=self.max_search_steps,
            evaluate=on_own_batch,
        )
        s, predicted = found.step_size, predicted_reduction(found.step_size)
        lost = (evaluates(self.search) or on_own_batch) & ~jnp.isfinite(found.reduction)
        grad_norm = solved.grad_norm
        result = result_where(
            (~jnp.isfinite(loss), RESULTS.nonfinite_loss),
            (~jnp.isfinite(grad_norm), RESULTS.nonfinite_gradient),
            (grad_norm == 0, RESULTS.stationary),
            (~jnp.isfinite(direction_norm), RESULTS.nonfinite_direction),
            (found.accepted & ~(predicted > 0), RESULTS.no_reduction),
            (found.accepted & lost, RESULTS.nonfinite_candidate),
            (~found.accepted, RESULTS.search_exhausted),
        )
        accepted = result == RESULTS.successful
        # What a search learns of a batch that has no finite model is not worth carrying on; one
        # that only counts its steps learns nothing.
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & jnp.isfinite(direction_norm)
        learned = finite if evaluates(self.search) else jnp.ones_like(finite)
        taken = jnp.where(accepted, s, 0)
        new_params = select(accepted, add_scaled(params, -s, direction.vector), params)
        next_damping = damping
        if last is None:
            ratio = found.reduction / predicted
            next_damping = self.damping.update(damping, reduction_ratio=ratio, accepted=accepted)
        else:
            last = last.followed_by(params, s, direction.slope, direction.metric, accepted)
        new_state = NaturalGradientState(
            steps=state.steps + 1,
            damping=next_damping,
            search=select(learned, found.state, state.search),
            direction=None if state.direction is None else _kept(accepted, direction.vector),
            last=last,
            metric=None if metric is None else select(finite, metric, state.metric),
            mask=state.mask,
        )
        info = Info(
            loss=loss,
            grad_norm=grad_norm,
            step_norm=taken * direction_norm,
            damping=damping,
            solver=solved.solver,
            solver_steps=solved.steps,
            solver_residual=solved.residual,
            eigendecomposition=solved.eigendecomposition,
            reduction_ratio=ratio,
            metric_step=taken**2 * direction.metric / 2,
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
            operator = self._operator(
                linearisation, model, batch, trainable, model_key, curvature_key
            )
            if self.metric_decay is not None:
                none = no_average(linearisation.params)
                _, operator = averaged_with(none, operator, self.metric_decay)
            plans.append(self._plan(damped(operator, jnp.ones((), linearisation.loss.dtype))))

        eqx.filter_eval_shape(trace, model, batch, key)
        return plans[0]

    def _plan(self, operator: DampedOperator) -> Plan:
        return plan_for(self.solver, operator, positive_damping=self.damping.is_positive())

    def _operator(
        self,
        linearisation: Linearisation,
        model: PyTree,
        batch: PyTree,
        trainable: PyTree,
        model_key: PRNGKeyArray | None,
        curvature_key: PRNGKeyArray | None,
    ) -> lx.AbstractLinearOperator:
        """C, of the whole batch or of its first examples."""
        most = self.curvature_batch
        if most is not None and any(len(leaf) > most for leaf in jtu.tree_leaves(batch)):
            some = jtu.tree_map(lambda leaf: leaf[:most], batch)
            linearisation = self.objective.linearise(
                model, some, trainable=trainable, key=model_key
            )
        return self.curvature.operator(linearisation, key=curvature_key)

    def _solve(
        self,
        operator: lx.AbstractLinearOperator,
        linearisation: Linearisation,
        damping: Scalar,
        last: PyTree[Array] | None,
    ) -> Solved:
        l2 = self.objective.l2
        offset = self.momentum.offset(last, damping)
        options: dict[str, Any] = {}
        if self.warm_start:
            options["y0"] = optax.tree.scale(self.warm_start, last)
        # Where C is of other examples the solver does not know what the gradient is made of.
        if isinstance(operator, PullbackOperator) and operator.linearisation is linearisation:
            options |= operator.gradient_options()
            rest = offset  # all of the vector that is not the gradient of the terms
            if l2 is not None:
                decay = scaled(l2, linearisation.params)
                rest = decay if rest is None else optax.tree.add(rest, decay)
            if rest is not None:
                options["offset"] = rest
        whole = damped(operator, damping if l2 is None else damping + l2.astype(damping.dtype))
        solver = self.solver
        if isinstance(solver, Auto):
            solver = self._plan(whole).solver
        return solve(solver, whole, linearisation.grad, offset, options)


def _rayleigh(linearisation: Linearisation, operator: lx.AbstractLinearOperator) -> Scalar:
    """gᵀCg/gᵀg of the terms; NaN where g is zero or not finite.

    The gradient is made anew: where this is not called it need not be made at all.
    """
    grad = linearisation.vjp(linearisation.cotangents)
    unit = scaled(1 / norm(grad), grad)  # nothing is squared that could overflow
    return vdot(unit, operator.mv(unit))


def _with_penalty(direction: Direction, l2: Scalar | None) -> Direction:
    """The direction with numbers by C + l2·I."""
    if l2 is None:
        return direction
    metric = direction.metric + l2.astype(direction.metric.dtype) * direction.squared_norm
    return eqx.tree_at(lambda d: d.metric, direction, metric)


def _kept(accepted: Array, direction: PyTree[Array]) -> PyTree[Array]:
    """The direction to carry on: zero after a step that was rejected."""
    return select(accepted, direction, jtu.tree_map(jnp.zeros_like, direction))
