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
    """How a step ended; `RESULTS[info.result]` is a sentence, empty if the step was accepted."""

    successful = ""
    invalid_targets = (
        "The batch holds targets outside the domain of their likelihood, such as a label out of "
        "range or probabilities that do not sum to one: check the targets."
    )
    nonfinite_loss = (
        "The loss is not finite: the batch or the weights hold NaN or numbers that are too large."
    )
    nonfinite_gradient = (
        "The gradient is not finite, though the loss is. With a solve in sample space, it may also "
        "be the curvature that is not finite."
    )
    nonfinite_direction = "The curvature, or the direction from the linear solve, is not finite."
    nonfinite_update = "The update of the optax transformation is not finite."
    stationary = "The gradient is zero: there is nothing to reduce on this batch."
    no_reduction = (
        "The quadratic model predicts no reduction along the direction at the step size of the "
        "search: raise the damping or lower the step size."
    )
    nonfinite_candidate = "The loss at the new weights is not finite."
    search_exhausted = "The search found no acceptable step size in `max_search_steps` trials."
    no_proximal_reduction = (
        "The minimiser did not reduce the proximal objective: give it more steps, or raise the "
        "strength."
    )


class Info(eqx.Module):
    """The report of one step. All fields are scalars; a number that was not computed is None.

    - `loss`: the loss on this batch, before the step.
    - `grad_norm`, `step_norm`: ‖g‖₂, and ‖δ‖₂ of the accepted step δ (0 if rejected).
    - `damping`: the λ of this step.
    - `solver`: the class of the linear solver; empty if there was no solve.
    - `solver_steps`, `solver_residual`: the number of products in an iterative solve or a
      refinement (0 for a direct solve), and ‖b − (C+λI)d‖₂/‖b‖₂. b is g, plus what a momentum
      such as `Spring` adds; d is the solution, before a momentum combines it with the last step.
    - `reduction_ratio`: the actual change of the loss divided by the change that the quadratic
      model with the undamped C predicts, at the last step size tried. 1 if both changes are within
      the rounding of the loss. None unless search or damping needs it. With
      `LevenbergMarquardt(next_batch=True)` it is the average over the steps before this one.
    - `metric_step`: ½δᵀCδ of the accepted step, without the part of an acceleration (0 if
      rejected). C includes the penalty `l2`.
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
        (a function of a leaf, or a pytree of booleans): leaves that it does not select do not
        change; `batch`, arrays or shapes, needed if the state of a curvature depends on it.
        """

    @abc.abstractmethod
    def step(
        self, model: PyTree, batch: PyTree, state: Any, *, key: PRNGKeyArray | None = None
    ) -> tuple[PyTree, Any, Info]:
        """One step on one batch, compiled once per batch shape.

        It may be called inside `jit`, `vmap` and `scan`; model and state keep structure, shapes
        and dtypes. A rejected step does not change the model.

        **Arguments:** `model` and `state`, from the previous step; `batch`, see the objective;
        `key`, needed by sampled curvatures and by models with dropout.

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
        """The solver that a step will use for its direction, and the predicted cost.

        Nothing is computed: arrays may be `jax.ShapeDtypeStruct`s. Returns None for an optimiser
        without a solve.

        **Arguments:** as for `init` and `step`.
        """


class AbstractEvaluatedElsewhere(AbstractOptimiser):
    """An optimiser that steps from one model and evaluates another, such as an average."""

    @abc.abstractmethod
    def evaluated(self, model: PyTree, state: Any) -> PyTree:
        """The model to evaluate and to save; it has the structure of `model`.

        **Arguments:** `model` and `state`, from the last step or from `init`.
        """


def evaluated(optimiser: AbstractOptimiser, model: PyTree, state: Any) -> PyTree:
    """The model to evaluate and to save: `model` itself, or the optimiser's `evaluated` model.

    **Arguments:** `model` and `state`, from the optimiser's last step or from its `init`.
    """
    if isinstance(optimiser, AbstractEvaluatedElsewhere):
        return optimiser.evaluated(model, state)
    return model


# One boolean per leaf of a model: whether it is trained.
Mask = tuple[bool, ...]

_FROZEN = object()


def trainable_mask(model: PyTree, trainable: PyTree) -> Mask:
    """Converts a filter specification to one boolean per leaf: hashable, for a static field."""
    check_trainable(eqx.filter(model, trainable))
    marked = eqx.filter(model, trainable, replace=_FROZEN)
    return tuple(leaf is not _FROZEN for leaf in jtu.tree_leaves(marked))


def as_filter(model: PyTree, mask: Mask) -> PyTree[bool]:
    """The inverse of `trainable_mask`."""
    leaves, treedef = jtu.tree_flatten(model)
    if len(leaves) != len(mask):
        raise ValueError(
            f"The model has {len(leaves)} leaves, but `init` was given a model with {len(mask)}. "
            "Call `init` again with this model."
        )
    return jtu.tree_unflatten(treedef, mask)


def check_state(optimiser: AbstractOptimiser, state: Any, kind: type) -> None:
    """Raise unless `state` is of the class `kind`, the state of this optimiser."""
    if not isinstance(state, kind):
        raise other_state(optimiser, type(state).__name__)


def other_state(optimiser: AbstractOptimiser, got: str) -> ValueError:
    """The error for a state that does not belong to `optimiser`; `got` describes the state."""
    return ValueError(
        f"`{type(optimiser).__name__}.step(model, batch, state)` takes a state from its own `init` "
        f"or `step`, got {got}. Call `init` of this optimiser."
    )


def split(key: PRNGKeyArray | None) -> tuple[PRNGKeyArray | None, PRNGKeyArray | None]:
    """Two keys, one for the model and one for the curvature; None for None."""
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
