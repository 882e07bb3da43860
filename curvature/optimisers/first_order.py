from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
import optax
from jaxtyping import Array, PRNGKeyArray, PyTree, Scalar

from .._checks import instance_of
from .._devices import automatic_sharding
from .._precision import full_precision
from .._trees import cast_like, norm
from ..objective import AbstractObjective, check_objective
from ._base import (
    RESULTS,
    AbstractOptimiser,
    Info,
    Mask,
    as_filter,
    check_state,
    result_where,
    select,
    split,
    trainable_mask,
)


class FirstOrderState(eqx.Module):
    """The state of the optax transformation."""

    transformation: PyTree[Array]
    mask: Mask = eqx.field(static=True)


class FirstOrder(AbstractOptimiser):
    """Any optax gradient transformation as an optimiser of this package, for baselines.

    The transformation receives extra arguments by name: `value`, `grad` and `value_fn` for line
    searches, and `model`, `batch` and `key` for [`scale_by_curvature`][], which may be part of a
    chain with momentum, schedules and clipping.

    A step whose loss, gradient or update is not finite is rejected: neither the weights nor the
    state of the transformation change.
    """

    objective: AbstractObjective
    transformation: optax.GradientTransformation = eqx.field(static=True)

    def __check_init__(self):
        check_objective("FirstOrder", self.objective)
        wanted = "an optax transformation, such as `optax.sgd(0.1)`"
        kind = optax.GradientTransformation
        instance_of("FirstOrder(transformation=...)", self.transformation, kind, wanted)

    def init(
        self,
        model: PyTree,
        trainable: PyTree = eqx.is_inexact_array,
        batch: PyTree | None = None,
    ) -> FirstOrderState:
        del batch
        mask = trainable_mask(model, trainable)
        return FirstOrderState(self.transformation.init(eqx.filter(model, trainable)), mask)

    @eqx.filter_jit
    @full_precision
    @automatic_sharding("model", "state", None)
    def step(
        self,
        model: PyTree,
        batch: PyTree,
        state: FirstOrderState,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[PyTree, FirstOrderState, Info]:
        check_state(self, state, FirstOrderState)
        params, frozen = eqx.partition(model, as_filter(model, state.mask))
        model_key, _ = split(key)

        # Optax's line searches pass their extra arguments on to `value_fn`, by name.
        def loss_at(
            w: PyTree[Array], model: PyTree = None, batch: Any = batch, key: Any = None
        ) -> Scalar:
            del model, key
            return self.objective.loss(eqx.combine(w, frozen), batch, key=model_key)

        loss, valid, grad = self.objective.loss_and_gradient(params, frozen, batch, key=model_key)
        transformation = optax.with_extra_args_support(self.transformation)
        updates, new_state = transformation.update(
            grad,
            state.transformation,
            params,
            value=loss,
            grad=grad,
            value_fn=loss_at,
            model=model,
            batch=batch,
            key=key,
        )
        grad_norm, step_norm = norm(grad), norm(updates)
        result = result_where(
            (~valid, RESULTS.invalid_targets),
            (~jnp.isfinite(loss), RESULTS.nonfinite_loss),
            (~jnp.isfinite(grad_norm), RESULTS.nonfinite_gradient),
            (~jnp.isfinite(step_norm), RESULTS.nonfinite_update),
        )
        accepted = result == RESULTS.successful
        new_params = jtu.tree_map(
            lambda w, u: jnp.where(accepted, w + u.astype(w.dtype), w), params, updates
        )
        new_state = FirstOrderState(select(accepted, new_state, state.transformation), state.mask)
        info = Info(
            loss=loss,
            grad_norm=grad_norm,
            step_norm=jnp.where(accepted, step_norm, 0),
            damping=None,
            solver="",
            solver_steps=jnp.zeros((), jnp.int32),
            solver_residual=None,
            reduction_ratio=None,
            metric_step=None,
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
    ) -> None:
        del model, batch, trainable, key
