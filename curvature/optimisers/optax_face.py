from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
import numpy as np
import optax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree, Scalar, ScalarLike

from .._devices import automatic_sharding
from .._precision import full_precision
from .._trees import cast_like, widen, work_dtype
from ..curvatures import AbstractCurvature, GaussNewton
from ..damping import AbstractDamping, ConstantDamping, ScheduledDamping
from ..objective import AbstractObjective
from ..operators import damped
from ..solvers import Auto, Preconditioned, RightHandSide
from ._base import select, split
from ._system import States, System, batch_of, shapes_of

_NO_MODEL = (
    "`scale_by_curvature(...).update(updates, state, params, model=..., batch=...)` needs the "
    "model and the batch to compute the curvature, got {}. Pass both by name."
)

_MISMATCH = (
    "`scale_by_curvature(...)`: updates and parameters must be the trainable part of the model, "
    "such as `eqx.filter(model, eqx.is_inexact_array)`, with None or `optax.MaskedNode()` for "
    "each frozen leaf, got {} for a model with {}."
)

_NO_SHAPES = (
    "`scale_by_curvature(...).init(params)`: the state of the curvature or of the "
    "preconditioner depends on the model and the batch. Pass both to `scale_by_curvature(..., "
    "model=model, batch=batch)`, as arrays or as shapes."
)

_NEEDS_LOSS = (
    "`scale_by_curvature(damping=...)` must be a number ≥ 0 or an optax schedule, got {}, which "
    "needs the loss after each step. An optax transformation does not have this loss: use "
    "`NaturalGradient`."
)


class ScaleByCurvatureState(eqx.Module):
    """The state that is carried from update to update; the last two fields are only reported.

    - `count`: the number of updates. `curvature`: the states of C and of the preconditioner.
    - `solver_steps`, `solver_residual`: those of the last solve, as in [`Info`][].
    """

    count: Int[Array, ""]
    curvature: States
    solver_steps: Int[Array, ""]
    solver_residual: Scalar | None


def scale_by_curvature(
    objective: AbstractObjective,
    curvature: AbstractCurvature | None = None,
    solver: lx.AbstractLinearSolver | None = None,
    preconditioner: AbstractCurvature | None = None,
    damping: ScalarLike | Callable[[Array], Any] | AbstractDamping = 1e-3,
    *,
    model: PyTree = None,
    batch: PyTree = None,
) -> optax.GradientTransformationExtraArgs:
    """An optax transformation that maps updates g to (C + λI)⁻¹ g, without a change of sign.

        tx = optax.chain(cv.scale_by_curvature(objective, damping=1e-2), optax.scale(-0.1))
        state = tx.init(eqx.filter(model, eqx.is_inexact_array))
        updates, state = tx.update(grad, state, params, model=model, batch=batch, key=key)

    C is made from `batch` at the weights of `model`; if the objective has an `l2`, `l2`·I is added.
    g may be any updates. If g is the gradient of the objective on the same batch, the direction is
    that of `NaturalGradient`. `NaturalGradient` also has searches, momentum and adaptive damping.

    - The trained weights are those where `updates` has arrays. None and `optax.MaskedNode()` stand
      for frozen weights, which are not part of C.
    - `key` is needed in the same cases as for `NaturalGradient.step`.
    - With `optax.MultiSteps`, C is made from the last batch only.
    - If the loss, g or the direction is not finite, the states of curvature and preconditioner do
      not change. The direction is returned as it is: see `optax.apply_if_finite`.

    **Arguments:**

    - `objective`, `curvature`, `solver`, `preconditioner`: as for `NaturalGradient`.
    - `damping`: λ, a number or an optax schedule; or a `ConstantDamping` or `ScheduledDamping`.
    - `model`, `batch`: arrays or shapes. They are needed if the state of the curvature or of the
      preconditioner depends on them, since `init(params)` receives neither.
    """
    curvature = GaussNewton() if curvature is None else curvature
    system = System(curvature, Auto() if solver is None else solver, preconditioner)
    scaler = _Scaler(objective, system, _policy(damping))
    shapes = jtu.tree_map(_shape, (model, batch))

    def init(params: PyTree) -> Any:
        return scaler.init(params, *shapes)

    def update(
        updates: PyTree[Array],
        state: Any,
        params: PyTree[Array] | None = None,
        *,
        model: PyTree = None,
        batch: PyTree = None,
        key: PRNGKeyArray | None = None,
        **of_others: Any,
    ) -> tuple[PyTree[Array], Any]:
        del params, of_others
        if model is None or batch is None:
            raise ValueError(_NO_MODEL.format("no model" if model is None else "no batch"))
        return scaler.update(updates, state, model, batch, key)

    return optax.GradientTransformationExtraArgs(init, update)


class _Scaler(eqx.Module):
    objective: AbstractObjective
    system: System
    damping: AbstractDamping

    def init(self, params: PyTree, model: PyTree, batch: PyTree) -> ScaleByCurvatureState:
        self.damping.init(params)
        shapes = None
        if model is not None and batch is not None:
            shapes = shapes_of(self.objective, model, batch, _trainable(model, params))
        try:
            states = self.system.init(shapes)
        except ValueError as error:
            if shapes is not None:
                raise
            raise ValueError(_NO_SHAPES) from error
        zero, residual = jnp.zeros((), jnp.int32), jnp.zeros((), work_dtype(params))
        known = not isinstance(self.system.solver, Preconditioned)
        return ScaleByCurvatureState(zero, states, zero, residual if known else None)

    # Jitted, so that a loop outside `jit` compiles the update once.
    @eqx.filter_jit
    @full_precision
    @automatic_sharding("updates", "state")
    def update(
        self,
        updates: PyTree[Array],
        state: ScaleByCurvatureState,
        model: PyTree,
        batch: PyTree,
        key: PRNGKeyArray | None,
    ) -> tuple[PyTree[Array], ScaleByCurvatureState]:
        model_key, curvature_key = split(key)
        trainable = _trainable(model, updates)
        linearisation = self.objective.linearise(model, batch, trainable=trainable, key=model_key)
        C, P, states = self.system.update(linearisation, state.curvature, key=curvature_key)
        damping = self.damping.begin(None, batch_of(linearisation, C, state.count)).damping
        C, P, states = self.system.refresh(C, P, states, linearisation.damped(damping))
        C = C if linearisation.l2 is None else damped(C, linearisation.l2)
        leaves, treedef = jtu.tree_flatten(updates)  # in the order of the leaves of the model
        g = jtu.tree_unflatten(jtu.tree_structure(linearisation.params), leaves)
        _, found = self.system.solve(
            C,
            P,
            damping,
            RightHandSide(linearisation, None, widen(g)),
            None,
            positive_damping=self.damping.is_positive(),
        )
        direction = jtu.tree_unflatten(treedef, jtu.tree_leaves(found.direction))
        finite = jnp.isfinite(linearisation.loss) & found.finite
        new_state = ScaleByCurvatureState(
            count=state.count + 1,
            curvature=select(finite, states, state.curvature),
            solver_steps=found.steps,
            solver_residual=found.residual,
        )
        return cast_like(direction, updates), cast_like(new_state, state)


def _policy(damping: Any) -> AbstractDamping:
    if isinstance(damping, ConstantDamping | ScheduledDamping):
        return damping
    if isinstance(damping, AbstractDamping):
        raise ValueError(_NEEDS_LOSS.format(f"`{type(damping).__name__}`"))
    return ScheduledDamping(damping) if callable(damping) else ConstantDamping(damping)


def _shape(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array | np.ndarray):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    return leaf


def _trainable(model: PyTree, given: PyTree) -> PyTree[bool]:
    """A filter for the model that selects the leaves that `given` has; the others are frozen."""

    def mark(one: Any, part: PyTree) -> PyTree[bool]:
        if _is_frozen(one):
            return jtu.tree_map(lambda _: False, part)
        if getattr(part, "shape", None) != one.shape:
            raise ValueError(f"{jnp.shape(one)}")
        return True

    try:
        return jtu.tree_map(mark, given, model, is_leaf=_is_frozen)
    except (ValueError, TypeError) as error:
        found = (jtu.tree_map(jnp.shape, eqx.filter(t, _is_shaped)) for t in (given, model))
        raise ValueError(_MISMATCH.format(*found)) from error


def _is_shaped(leaf: Any) -> bool:
    return hasattr(leaf, "shape")


def _is_frozen(leaf: Any) -> bool:
    return leaf is None or isinstance(leaf, optax.MaskedNode)
