"""How a step ended: its result, and the ratio of the reduction of the loss to the predicted one."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Scalar

from ..linearisation import AbstractLinearisation
from ..momentum import Direction
from ..searches import SearchOutcome
from ..solvers import Solution
from ._base import RESULTS, result_where


def reduction_ratios(
    outcome: SearchOutcome, predicted: Scalar, first_predicted: Scalar
) -> tuple[Scalar | None, Scalar | None]:
    """The reduction ratios of the last and of the first step size that the search tried.

    The first ratio is −∞ if the model predicts no reduction, or if the loss is not finite there.
    Both are None if the search evaluates no loss.
    """
    if outcome.reduction is None or outcome.first_reduction is None:
        return None, None
    ratio = outcome.reduction / jnp.where(predicted == 0, 1, predicted)
    first_ratio = outcome.first_reduction / jnp.where(first_predicted > 0, first_predicted, jnp.nan)
    return ratio, jnp.where(jnp.isfinite(first_ratio), first_ratio, -jnp.inf)


def step_result(
    linearisation: AbstractLinearisation,
    solution: Solution,
    direction: Direction,
    outcome: SearchOutcome,
    predicted: Scalar,
) -> tuple[Any, Array]:
    """How the step ended, and whether the batch has a finite loss, gradient and direction."""
    loss, grad_norm = linearisation.loss, solution.vector_norm
    direction_norm = direction.squared_norm
    solved = solution.finite & jnp.isfinite(direction_norm)
    lost = jnp.zeros((), bool)
    if outcome.reduction is not None:
        lost = ~jnp.isfinite(outcome.reduction)
    result = result_where(
        (~linearisation.valid, RESULTS.invalid_targets),
        (~jnp.isfinite(loss), RESULTS.nonfinite_loss),
        (~jnp.isfinite(grad_norm), RESULTS.nonfinite_gradient),
        (grad_norm == 0, RESULTS.stationary),
        (~solved, RESULTS.nonfinite_direction),
        (outcome.accepted & ~(predicted > 0), RESULTS.no_reduction),
        (outcome.accepted & lost, RESULTS.nonfinite_candidate),
        (~outcome.accepted, RESULTS.search_exhausted),
    )
    return result, jnp.isfinite(loss) & solved
