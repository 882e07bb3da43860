from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import optimistix as optx
from jaxtyping import Array, Bool, Int, PyTree, Scalar

from .._rounding import is_rounding, rounding_error
from .._trees import add_scaled
from ._base import evaluates


class SearchOutcome(eqx.Module):
    """The result of a search along a direction.

    - `step_size`, `reduction`: the last step size, and by how much it reduces the loss (None if the
      loss was not evaluated).
    - `accepted`: whether the search accepts the step size.
    - `state`: the state of the search for the next batch.
    - `first_step_size`, `first_reduction`: the first step size that was tried, and its reduction
      (None if the loss was not evaluated).
    """

    step_size: Scalar
    reduction: Scalar | None
    accepted: Bool[Array, ""]
    state: PyTree[Array]
    first_step_size: Scalar
    first_reduction: Scalar | None


def init_search(search: optx.AbstractSearch, params: PyTree, f_info: Any) -> PyTree[Array]:
    """The search's first state with strong types; weak types would cause a second trace."""
    state = search.init(params, f_info)
    return jtu.tree_map(lambda x: jax.lax.convert_element_type(x, x.dtype), state)


def at_step(
    params: PyTree[Array], s: Scalar, direction: PyTree[Array], bend: PyTree[Array] | None
) -> PyTree[Array]:
    """The weights w − s·d, or w − s·d − s²·b."""
    straight = add_scaled(params, -s, direction)
    return straight if bend is None else add_scaled(straight, -(s**2), bend)


def search_along(
    search: optx.AbstractSearch,
    state: PyTree[Array],
    params: PyTree[Array],
    direction: PyTree[Array],
    f_info: optx.FunctionInfo.EvalGradHessian,  # pyright: ignore[reportInvalidTypeForm]
    *,
    loss: Callable[[PyTree[Array]], Scalar],
    predicted_reduction: Callable[[Scalar], Scalar],
    max_steps: int,
    evaluate: bool,
    bend: PyTree[Array] | None = None,
) -> SearchOutcome:
    """Runs an optimistix search for s over the candidates w − s·d, on one batch.

    The first call of `search.step` has `first_step=True` and `y_eval` = w − d, and returns the
    first s. The search computes the direction from `y_eval`. (At a first step, Armijo's search
    starts again, and a trust region keeps its radius.) Each following call has `first_step=False`
    and the loss at a candidate. There are at most `max_steps` candidates.

    If the loss of a candidate is not finite, or if the quadratic model predicts no reduction, the
    search gets the loss +∞, since optimistix's searches would accept some of these candidates. If
    the predicted and the actual change are both within the rounding of the loss, the change is set
    to the predicted one (Conn, Gould & Toint 2000, "Trust-region methods", section 17.4.2). Near a
    minimum the difference of two losses is rounding error, so every search would fail there.

    **Arguments:** `state`, from the previous batch; `params`, w; `direction`, d; `f_info`, the
    loss, gradient and undamped curvature at w; `loss`, a function of candidate weights;
    `predicted_reduction`, a function of a step size; `evaluate`, whether to evaluate the loss even
    if the search does not use it; `bend`, b: with b, the candidates are w − s·d − s²·b.
    """
    dtype = f_info.f.dtype
    here = optx.FunctionInfo.Eval(f_info.f)
    whole = add_scaled(params, -jnp.ones((), dtype), direction)
    step_size, _, _, state = search.step(jnp.asarray(True), params, whole, f_info, here, state)
    step_size = jnp.asarray(step_size, dtype)

    def reduced(step_size: Scalar, candidate: PyTree[Array]) -> tuple[Scalar, Scalar]:
        """The reduction, and the loss that the search gets.

        Within rounding, the reduction is the predicted one. The search then gets the loss at w
        minus its rounding error, which is a decrease.
        """
        at, predicted = loss(candidate), predicted_reduction(step_size)
        noise = is_rounding(f_info.f, at, predicted)
        reduction = jnp.where(noise, predicted, f_info.f - at)
        return reduction, jnp.where(noise, f_info.f - rounding_error(f_info.f), at)

    if not evaluates(search):
        reduction = None
        if evaluate:
            reduction, _ = reduced(step_size, at_step(params, step_size, direction, bend))
        accepted = jnp.asarray(True)
        return SearchOutcome(step_size, reduction, accepted, state, step_size, reduction)

    def body(carry: tuple[Int[Array, ""], Scalar, SearchOutcome]) -> Any:
        trial, step_size, before = carry
        reduction, at = reduced(step_size, at_step(params, step_size, direction, bend))
        # The search computes the slope from this candidate. It must be the slope along d, without
        # gᵀb, so the candidate is without the bend.
        candidate = add_scaled(params, -step_size, direction)
        promising = jnp.isfinite(at) & (predicted_reduction(step_size) > 0)
        shown = optx.FunctionInfo.Eval(jnp.where(promising, at, jnp.inf))
        following, accepted, _, state = search.step(
            jnp.asarray(False), params, candidate, f_info, shown, before.state
        )
        assert before.first_reduction is not None
        of_first = jnp.where(trial == 0, reduction, before.first_reduction)
        outcome = SearchOutcome(
            step_size, reduction, accepted & promising, state, before.first_step_size, of_first
        )
        return trial + 1, jnp.asarray(following, dtype), outcome

    nothing = jnp.zeros((), dtype)
    first = SearchOutcome(step_size, nothing, jnp.asarray(False), state, step_size, nothing)
    _, _, outcome = jax.lax.while_loop(
        lambda carry: ~carry[2].accepted & (carry[0] < max_steps),
        body,
        (jnp.zeros((), jnp.int32), step_size, first),
    )
    return outcome
