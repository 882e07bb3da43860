import abc
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree, Scalar

from .._trees import select as select
from ..objective import AbstractObjective, check_trainable
from ..solvers import Plan


class RESULTS(eqx.Enumeration):  # pyright: ignore
    """How a step ended; `RESULTS[info.result]` is a sentence, empty when the step was taken."""

    successful = ""
    invalid_targets = (
        "The batch holds targets outside the domain of their likelihood, such as a label out of "
        "range or probabilities that do not sum to one: check the targets."
    )
    nonfinite_loss = (
        "The loss is not finite: the batch or the weights hold NaN or too large numbers."
    )
    nonfinite_gradient = "The gradient is not finite, though the loss is."
    nonfinite_direction = "The direction from the linear solve is not finite."
    stationary = "The gradient is zero: there is nothing to reduce on this batch."
    no_reduction = (
        "The quadratic model predicts no reduction along the direction at the step size that the "
        "search asked for: raise the damping or lower the step size."
    )
    nonfinite_candidate = "The loss at the new weights is not finite."
    search_exhausted = "The search found no acceptable step size in `max_search_steps` trials."
    no_proximal_reduction = (
        "The minimiser did not reduce the proximal objective: give it more steps, or raise the "
        "strength."
    )


class Info(eqx.Module):
    """What one step reports. All are scalars; a number that was not computed is None.

    - `loss`: on this batch, before the step.
    - `grad_norm`, `step_norm`: ‖g‖₂, and ‖δ‖₂ of the step taken (0 if rejected).
    - `damping`: the λ that this step used.
    - `solver`: the class of the linear solver that was used, empty where nothing was solved.
    - `solver_steps`, `solver_residual`: products of an iterative solve or of refinement (0 of a
      direct one), and ‖g − (C+λI)d‖₂/‖g‖₂.
    - `reduction_ratio`: actual over predicted change of the loss, at the last step size tried,
      by the quadratic model with the undamped C; 1 where both are within the rounding of the
      loss. None unless search or damping needs it.
    - `metric_step`: ½δᵀCδ of the step taken.
    - `accepted`: whether the weights were changed; `result`: if not, why (`RESULTS`).
    """

    loss: Scalar
    grad_norm: Scalar
    step_norm: Scalar
    damping: Scalar | None
    solver: str = eqx.field(static=True)
    solver_steps: Int[Array, ""]
    solver_residual: Scalar | None
    reduction_ratio: Scalar | None
    metric_step: Scalar | None
    accepted: Bool[Array, ""]
    result: RESULTS


class AbstractOptimiser(eqx.Module):
    """`init` makes a state for a model; `step` makes one step on one batch."""

    objective: eqx.AbstractVar[AbstractObjective]

    @abc.abstractmethod
    def init(
        self,
        model: PyTree,
        trainable: PyTree = eqx.is_inexact_array,
        batch: PyTree | None = None,
    ) -> Any:
        """The state before the first step. It shares no buffer with the model.

        **Arguments:** `model`, any Equinox model; `trainable`, an Equinox filter specification
        (a function of a leaf, or a pytree of booleans): what it leaves out stays as it is; `batch`,
        arrays or shapes, where the state of a curvature depends on it.
        """

    @abc.abstractmethod
    def step(
        self, model: PyTree, batch: PyTree, state: Any, *, key: PRNGKeyArray | None = None
    ) -> tuple[PyTree, Any, Info]:
        """One step on one batch, compiled once per batch shape.

        It may be called inside `jit`, `vmap` and `scan`; model and state keep structure, shapes
        and dtypes. A rejected step leaves the model as it was.

        **Arguments:** `model` and `state`, from the last step; `batch`, see the objective; `key`,
        needed by sampled curvatures and by models with dropout.

        **Returns:** the model, the state and an [`Info`][].
        """

    @abc.abstractmethod
    def plan(
        self,
        model: PyTree,
        batch: PyTree,
        trainable: PyTree = eqx.is_inexact_array,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Plan | None:
        """How a step will solve for its direction, and what that is predicted to cost.

        Nothing is computed: arrays may be `jax.ShapeDtypeStruct`s. None where nothing is solved.

        **Arguments:** as those of `init` and `step`.
        """


class AbstractEvaluatedElsewhere(AbstractOptimiser):
    """An optimiser that steps from one point and is judged at another, such as an average."""

    @abc.abstractmethod
    def evaluated(self, model: PyTree, state: Any) -> PyTree:
        """The model to evaluate and to save, of the structure of `model`.

        **Arguments:** `model` and `state`, from the last step or from `init`.
        """


def evaluated(optimiser: AbstractOptimiser, model: PyTree, state: Any) -> PyTree:
    """The model to evaluate and to save: `model` itself, or what the optimiser has in its place.

    **Arguments:** `model` and `state`, from the optimiser's last step or from its `init`.
    """
    if isinstance(optimiser, AbstractEvaluatedElsewhere):
        return optimiser.evaluated(model, state)
    return model


# Which leaves of a model are trained, in the order of its leaves.
Mask = tuple[bool, ...]

_FROZEN = object()


def trainable_mask(model: PyTree, trainable: PyTree) -> Mask:
    """A filter specification as one boolean per leaf: static, so that it may sit in a state."""
    check_trainable(eqx.filter(model, trainable))
    marked = eqx.filter(model, trainable, replace=_FROZEN)
    return tuple(leaf is not _FROZEN for leaf in jtu.tree_leaves(marked))


def as_filter(model: PyTree, mask: Mask) -> PyTree[bool]:
    """The inverse of `trainable_mask`."""
    leaves, treedef = jtu.tree_flatten(model)
    if len(leaves) != len(mask):
        raise ValueError(
            f"The model has {len(leaves)} leaves, but `init` was given one with {len(mask)}: "
            "call `init` again for this model."
        )
    return jtu.tree_unflatten(treedef, mask)


def check_state(optimiser: AbstractOptimiser, state: Any, kind: type) -> None:
    """Raise unless `state` is one that this kind of optimiser makes."""
    if not isinstance(state, kind):
        raise ValueError(
            f"`{type(optimiser).__name__}.step(model, batch, state)` takes the state that its own "
            f"`init` or `step` returned, got {type(state).__name__}: call `init` of this optimiser."
        )


def split(key: PRNGKeyArray | None) -> tuple[PRNGKeyArray | None, PRNGKeyArray | None]:
    """Two keys, of the model and of the curvature."""
    if key is None:
        return None, None
    model_key, curvature_key = jax.random.split(key)
    return model_key, curvature_key


def result_where(*cases: tuple[Bool[Array, ""], Any]) -> Any:
    """The result of the first case that holds, else `RESULTS.successful`."""
    result = RESULTS.successful
    for holds, failure in reversed(cases):
        result = RESULTS.where(holds, failure, result)
    return result
