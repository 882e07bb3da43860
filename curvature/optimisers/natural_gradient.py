from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
import optimistix as optx
from jaxtyping import Array, Int, PRNGKeyArray, PyTree, Scalar, ScalarLike

from .._checks import instance_of, number, positive_int, scalar
from .._devices import automatic_sharding
from .._precision import full_precision
from .._trees import add_scaled, cast_like, norm, scaled, vdot, widen, work_dtype
from ..curvatures import AbstractCurvature, GaussNewton
from ..damping import AbstractDamping, ConstantDamping, Step
from ..linearisation import AbstractLinearisation
from ..momentum import AbstractMomentum, Direction, NoMomentum
from ..objective import AbstractObjective, check_objective
from ..operators import AbstractInvertibleOperator, DampedOperator, damped
from ..searches import SearchOutcome, at_step, evaluates, init_search, search_along
from ..solvers import Auto, Plan, RightHandSide, Solution, name_of
from ._acceleration import acceleration_right_hand_side, limit_acceleration
from ._base import (
    RESULTS,
    AbstractOptimiser,
    Info,
    Mask,
    as_filter,
    check_state,
    other_state,
    select,
    split,
    trainable_mask,
)
from ._outcome import reduction_ratios, step_result
from ._system import States, System, batch_of, shapes_of

_FIXED_STEP_SIZE = "For a fixed step size s, use `optimistix.LearningRate(s)`."


class NaturalGradientState(eqx.Module):
    """The state that is carried from step to step.

    - `steps`: the number of steps, including rejected ones.
    - `damping`, `search`, `curvature`, `preconditioner`: the states of these parts.
    - `direction`: the previous d, if the momentum uses it, else None.
    - `kinds`: the parts of the optimiser to which the state belongs.
    """

    steps: Int[Array, ""]
    damping: PyTree[Array]
    search: PyTree[Array]
    curvature: PyTree[Array]
    preconditioner: PyTree[Array]
    direction: PyTree[Array] | None
    mask: Mask = eqx.field(static=True)
    kinds: tuple[str, ...] = eqx.field(static=True)


class NaturalGradient(AbstractOptimiser):
    """w ← w − s·d with d = (C + λI)⁻¹ g: natural gradient, Gauss–Newton, Hessian-free.

    - `curvature` makes C, `damping` chooses λ, `solver` solves for d, `momentum` combines d with
      the previous direction, `search` chooses s.
    - The linear solve may be truncated: if it does not converge, this is reported and not an error.
    - The quadratic model of the loss along d is m(s) = L − s dᵀg + ½s² dᵀCd, with the *undamped*
      C. A step is rejected if the model predicts no reduction, or if the loss, the gradient or the
      direction is not finite.
    - For an objective with an `l2`, C + l2·I replaces C in the solve and in the model.

    **Arguments:**

    - `objective`: see `Supervised` and `Objective`.
    - `curvature`: default `GaussNewton()`, which needs no key and no distribution.
    - `solver`: any lineax solver for positive definite operators; default `Auto()`.
    - `preconditioner`: any curvature P whose damped inverse is known, usually a structure such as
      `Diagonal(of)`, or None. (P + λI)⁻¹ preconditions `CG`; λ here is that of the step plus the
      `l2` of the objective. P has its own state and its own random samples.
    - `damping`: λ as a number, or an `AbstractDamping`; default 1.
    - `search`: any optimistix search; default `optimistix.BacktrackingArmijo()`, which halves s
      until the loss of the batch decreases. `optimistix.LearningRate(1.0)` has s = 1 at every step.
    - `momentum`: default `NoMomentum()`.
    - `max_search_steps`: the most step sizes that a search may try on one batch.
    - `acceleration`: α of geodesic acceleration (Transtrum and Sethna 2012, section 3), with steps
      along the curve w − s·d + ½s²·a. There (C + λI) a = −Jᵀ H z″[d, d], with H the Hessian of the
      loss in the outputs z, and a is shortened to 2‖a‖ ≤ α‖d‖. The paper uses 0.75. It costs a
      second solve. None, the default, for straight steps.

    Parts can be combined: `FirstExamples(of, 100)` makes C from fewer examples than the gradient,
    `MovingAverage(of, 0.95)` averages C over the steps, `momentum=WarmStart(0.95)` starts an
    iterative solver from the previous direction.
    """

    objective: AbstractObjective
    curvature: AbstractCurvature
    solver: lx.AbstractLinearSolver
    preconditioner: AbstractCurvature | None
    damping: AbstractDamping
    search: optx.AbstractSearch
    momentum: AbstractMomentum
    max_search_steps: int = eqx.field(static=True)
    acceleration: ScalarLike | None

    def __init__(
        self,
        objective: AbstractObjective,
        curvature: AbstractCurvature | None = None,
        solver: lx.AbstractLinearSolver | None = None,
        preconditioner: AbstractCurvature | None = None,
        damping: AbstractDamping | Any = 1.0,
        search: optx.AbstractSearch | None = None,
        momentum: AbstractMomentum | None = None,
        max_search_steps: int = 10,
        acceleration: ScalarLike | None = None,
    ):
        if acceleration is not None:
            number("NaturalGradient(acceleration=...)", acceleration, positive=True)
        self.objective = objective
        self.curvature = GaussNewton() if curvature is None else curvature
        self.solver = Auto() if solver is None else solver
        self.preconditioner = preconditioner
        if isinstance(damping, type | str):
            wanted = "a number, or a damping such as `LevenbergMarquardt()`"
            instance_of("damping=...", damping, AbstractDamping, wanted)
        is_policy = isinstance(damping, AbstractDamping)
        self.damping = damping if is_policy else ConstantDamping(cast(ScalarLike, damping))
        self.search = optx.BacktrackingArmijo() if search is None else search
        self.momentum = NoMomentum() if momentum is None else momentum
        self.max_search_steps = max_search_steps
        self.acceleration = None if acceleration is None else scalar(acceleration)

    def __check_init__(self):
        check_objective("NaturalGradient", self.objective)
        wanted = "an optimistix search, such as `optimistix.BacktrackingArmijo()`"
        instance_of("search=...", self.search, optx.AbstractSearch, wanted, _FIXED_STEP_SIZE)
        wanted = "a momentum, such as `Spring(0.9)`"
        instance_of("momentum=...", self.momentum, AbstractMomentum, wanted)
        positive_int("NaturalGradient(max_search_steps=...)", self.max_search_steps)
        self._system()  # `System` checks that its parts fit together

    def init(
        self,
        model: PyTree,
        trainable: PyTree = eqx.is_inexact_array,
        batch: PyTree | None = None,
    ) -> NaturalGradientState:
        mask = trainable_mask(model, trainable)
        params = widen(eqx.filter(model, trainable))
        zeros = jtu.tree_map(jnp.zeros_like, params)
        f_info = optx.FunctionInfo.EvalGradHessian(
            jnp.zeros((), work_dtype(params)),
            zeros,
            lx.IdentityLinearOperator(jax.eval_shape(lambda: zeros)),
        )
        states = self._system().init(shapes_of(self.objective, model, batch, trainable))
        return NaturalGradientState(
            steps=jnp.zeros((), jnp.int32),
            damping=self.damping.init(params),
            search=init_search(self.search, params, f_info),
            curvature=states.curvature,
            preconditioner=states.preconditioner,
            direction=zeros if self.momentum.uses_last() else None,
            mask=mask,
            kinds=self._kinds(),
        )

    @eqx.filter_jit
    @full_precision
    @automatic_sharding("model", "state", None)
    def step(
        self,
        model: PyTree,
        batch: PyTree,
        state: NaturalGradientState,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[PyTree, NaturalGradientState, Info]:
        check_state(self, state, NaturalGradientState)
        kinds = self._kinds()
        if state.kinds != kinds:
            theirs, ours = ", ".join(state.kinds), ", ".join(kinds)
            raise other_state(self, f"a state for {theirs}; this optimiser has {ours}")
        model_key, curvature_key = split(key)
        trainable = as_filter(model, state.mask)
        linearisation = self.objective.linearise(model, batch, trainable=trainable, key=model_key)
        states = States(state.curvature, state.preconditioner)
        C, P, new_states = self._system().update(linearisation, states, key=curvature_key)
        chosen = self.damping.begin(state.damping, batch_of(linearisation, C, state.steps))
        C, P, new_states = self._system().refresh(
            C, P, new_states, linearisation.damped(chosen.damping)
        )
        if linearisation.l2 is not None:
            C = damped(C, linearisation.l2)  # the curvature of loss plus penalty
        solver, solution, direction = self._direction(
            C, P, linearisation, chosen.damping, state.direction
        )
        bend = self._bend(C, P, linearisation, chosen.damping, direction)
        outcome, predicted, first_predicted = self._search(
            C, linearisation, direction, bend, state.search
        )
        result, finite = step_result(linearisation, solution, direction, outcome, predicted)
        ratio, first_ratio = reduction_ratios(outcome, predicted, first_predicted)
        accepted = result == RESULTS.successful
        s = jnp.where(accepted, outcome.step_size, 0)
        params, frozen = eqx.partition(model, trainable)
        new_params = select(
            accepted, at_step(linearisation.params, s, direction.vector, bend), linearisation.params
        )
        numbers = outcome.step_size, direction.slope, direction.metric, ratio, accepted
        last_step = Step(linearisation.params, *numbers, first_ratio)
        # If the loss, gradient or direction of the batch is not finite, the new state of the search
        # is dropped. A search that does not use the loss only counts steps: its new state is kept.
        learned = finite if evaluates(self.search) else jnp.ones_like(finite)
        kept = select(finite, new_states, states)
        new_state = NaturalGradientState(
            steps=state.steps + 1,
            damping=self.damping.update(chosen, last_step),
            search=select(learned, outcome.state, state.search),
            curvature=kept.curvature,
            preconditioner=kept.preconditioner,
            direction=None
            if state.direction is None
            else _direction_if_accepted(accepted, direction.vector),
            mask=state.mask,
            kinds=kinds,
        )
        info = Info(
            loss=linearisation.loss,
            grad_norm=solution.vector_norm,
            step_norm=jnp.where(accepted, _length(s, direction, bend), 0),
            damping=chosen.damping,
            solver=name_of(solver),
            solver_steps=solution.steps,
            solver_residual=solution.residual,
            reduction_ratio=ratio if chosen.reduction_ratio is None else chosen.reduction_ratio,
            metric_step=jnp.where(accepted, s**2 * direction.metric / 2, 0),
            accepted=accepted,
            result=result,
        )
        return eqx.combine(cast_like(new_params, params), frozen), cast_like(new_state, state), info

    def plan(
        self,
        model: PyTree,
        batch: PyTree,
        trainable: PyTree = eqx.is_inexact_array,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Plan:
        return eqx.filter_eval_shape(self._plan, model, batch, trainable, key)

    # Jitted, so that repeated calls trace once.
    @eqx.filter_jit
    def _plan(
        self, model: PyTree, batch: PyTree, trainable: PyTree, key: PRNGKeyArray | None
    ) -> Plan:
        model_key, curvature_key = split(key)
        linearisation = self.objective.linearise(model, batch, trainable=trainable, key=model_key)
        positive = self.damping.is_positive()
        return self._system().plan(linearisation, positive_damping=positive, key=curvature_key)

    def _kinds(self) -> tuple[str, ...]:
        """The kinds of damping and search, and of the other parts that have a state."""
        momentum = type(self.momentum).__name__ if self.momentum.uses_last() else None
        found = [self.damping.kind, type(self.search).__name__, momentum]
        found += [*_stateful(self.curvature), *_stateful(self.preconditioner)]
        return tuple(name for name in found if name is not None)

    def _system(self) -> System:
        return System(self.curvature, self.solver, self.preconditioner)

    def _direction(
        self,
        C: lx.AbstractLinearOperator,
        P: AbstractInvertibleOperator | None,
        linearisation: AbstractLinearisation,
        damping: Scalar,
        last: PyTree[Array] | None,
    ) -> tuple[lx.AbstractLinearSolver, Solution, Direction]:
        """The solver that is used, its solution, and the direction including momentum.

        The numbers in solution and direction are for g and C including the penalty, without the
        offset of the momentum.
        """
        l2 = linearisation.l2
        gradient = RightHandSide(
            linearisation,
            linearisation.cotangents,
            None if l2 is None else scaled(l2, linearisation.params),
        )
        offset = self.momentum.offset(last, damping)
        solver, solution = self._system().solve(
            C,
            P,
            damping,
            gradient.plus(offset),
            self.momentum.start(last),
            positive_damping=self.damping.is_positive(),
        )
        slope, metric, squared_norm = solution.slope, solution.metric, solution.squared_norm
        if isinstance(C, DampedOperator):  # the metric is that of C without its multiple of I
            metric = metric + C.damping.astype(metric.dtype) * squared_norm
        if offset is not None:
            slope = vdot(solution.direction, linearisation.grad)
            solution = eqx.tree_at(lambda f: f.vector_norm, solution, norm(linearisation.grad))
        # The numbers are cast to the precision of the loss, which may differ from the weights'.
        numbers = (
            number.astype(linearisation.loss.dtype) for number in (slope, metric, squared_norm)
        )
        direction = Direction(solution.direction, *numbers)
        direction = self.momentum.combine(direction, last, linearisation.grad, C, damping)
        return solver, solution, direction

    def _bend(
        self,
        C: lx.AbstractLinearOperator,
        P: AbstractInvertibleOperator | None,
        linearisation: AbstractLinearisation,
        damping: Scalar,
        direction: Direction,
    ) -> PyTree[Array] | None:
        """The b of the curve w − s·d − s²·b; None for a straight line."""
        if self.acceleration is None:
            return None
        # v is an offset without cotangents: solvers may treat cotangents as those of the loss, but
        # v has others.
        v = RightHandSide(
            linearisation, None, acceleration_right_hand_side(linearisation, direction.vector)
        )
        positive = self.damping.is_positive()
        _, solution = self._system().solve(C, P, damping, v, None, positive_damping=positive)
        return limit_acceleration(
            solution.direction, solution.squared_norm, direction.squared_norm, self.acceleration
        )

    def _search(
        self,
        C: lx.AbstractLinearOperator,
        linearisation: AbstractLinearisation,
        direction: Direction,
        bend: PyTree[Array] | None,
        state: PyTree[Array],
    ) -> tuple[SearchOutcome, Scalar, Scalar]:
        """The result of the search, and the predicted reductions for its last and first s."""

        def predicted_reduction(s: Scalar) -> Scalar:
            return s * direction.slope - s**2 * direction.metric / 2

        outcome = search_along(
            self.search,
            state,
            linearisation.params,
            direction.vector,
            optx.FunctionInfo.EvalGradHessian(linearisation.loss, linearisation.grad, C),
            loss=linearisation.loss_at,
            predicted_reduction=predicted_reduction,
            max_steps=self.max_search_steps,
            evaluate=self.damping.needs_reduction_ratio(),
            bend=bend,
        )
        first_predicted = predicted_reduction(outcome.first_step_size)
        return outcome, predicted_reduction(outcome.step_size), first_predicted


def _stateful(curvature: AbstractCurvature | None) -> list[str]:
    """The kinds of a curvature, and of those within it, that carry a state."""
    if curvature is None or type(curvature).init is AbstractCurvature.init:
        return []
    within = [part for part in vars(curvature).values() if isinstance(part, AbstractCurvature)]
    return [curvature.kind, *(name for part in within for name in _stateful(part))]


def _length(s: Scalar, direction: Direction, bend: PyTree[Array] | None) -> Scalar:
    """‖s·d + s²·b‖."""
    if bend is None:
        return s * jnp.sqrt(direction.squared_norm)
    return norm(add_scaled(scaled(s, direction.vector), s**2, bend))


def _direction_if_accepted(accepted: Array, direction: PyTree[Array]) -> PyTree[Array]:
    """The direction for the next step's momentum: zero after a rejected step."""
    return select(accepted, direction, jtu.tree_map(jnp.zeros_like, direction))
