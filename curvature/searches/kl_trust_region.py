from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import optimistix as optx
from jaxtyping import Array, Bool, Int, PyTree, Scalar, ScalarLike

from .._checks import number, scalar
from .._trees import vdot


class _State(eqx.Module):
    step_size: Scalar
    batches: Int[Array, ""]


class KLTrustRegion(optx.AbstractSearch[PyTree, Any, Any, _State]):
    """The longest step with ½δᵀCδ ≤ `delta`, then backtracking until the loss decreases.

    Along a direction d the step size begins at

        s = min(√(2 delta/dᵀCd), dᵀg/dᵀCd)

    with the undamped C, which includes the penalty `l2` of the objective. The first is the step
    size at the bound, the second the minimum of the quadratic model of the loss along d. Then s is
    multiplied by `decrease_factor` until L(w − s·d) < L(w). With a Fisher as the curvature and
    without a penalty, ½δᵀCδ is to second order the KL divergence, in nats and per example, between
    the model's distributions before and after the step δ.

    This is the search of TRPO (Schulman, Levine, Moritz, Jordan and Abbeel 2015, "Trust region
    policy optimization", appendix C), with the constants of OpenAI's *Spinning Up*. The second step
    size dᵀg/dᵀCd is our addition: without it, even a very small gradient would be scaled up to the
    bound, so the steps would not become shorter near a minimum. `model_minimum=False` leaves it
    out, for a C that is not the curvature of the loss, as in a policy gradient. The search costs
    one product with C. A search reads d from the candidate w − d, so s has a relative error of
    about eps ‖w‖/‖d‖, where eps is the roundoff: in float32 a large λ can make d too short for it.

    **Arguments:** `delta`, the bound, positive: a number, or a schedule. The schedule's argument is
    the number of previous batches with a finite loss and direction, an integer array;
    `decrease_factor`, in (0, 1); `model_minimum`, whether s is at most dᵀg/dᵀCd.
    """

    delta: Callable[[Int[Array, ""]], Any] | ScalarLike
    decrease_factor: ScalarLike
    model_minimum: bool

    def __init__(
        self,
        delta: Callable[[Int[Array, ""]], Any] | ScalarLike = 0.01,
        decrease_factor: ScalarLike = 0.8,
        model_minimum: bool = True,
    ):
        if not callable(delta):
            number("KLTrustRegion(delta=...)", delta, positive=True)
        factor = number("KLTrustRegion(decrease_factor=...)", decrease_factor, positive=True)
        if factor is not None and factor >= 1:
            raise ValueError(
                f"`KLTrustRegion(decrease_factor=...)` must be less than 1, got {factor}."
            )
        self.delta = delta if callable(delta) else scalar(delta)
        if not isinstance(model_minimum, bool):
            raise ValueError(
                f"`KLTrustRegion(model_minimum=...)` must be true or false, got {model_minimum!r}."
            )
        self.decrease_factor = scalar(decrease_factor)
        self.model_minimum = model_minimum

    def init(self, y: PyTree[Array], f_info_struct: Any) -> _State:
        del y
        return _State(jnp.ones((), f_info_struct.f.dtype), jnp.zeros((), jnp.int32))

    def step(
        self,
        first_step: Bool[Array, ""],
        y: PyTree[Array],
        y_eval: PyTree[Array],
        f_info: Any,
        f_eval_info: Any,
        state: _State,
    ) -> tuple[Scalar, Bool[Array, ""], Any, _State]:
        """At the first step, `y_eval` is the candidate of step size 1, y − d."""

        def begin() -> Scalar:
            along = jtu.tree_map(jnp.subtract, y_eval, y)
            metric = vdot(along, f_info.hessian.mv(along)).astype(dtype)
            slope = -f_info.compute_grad_dot(along).astype(dtype)
            delta = self.delta(state.batches) if callable(self.delta) else self.delta
            s = jnp.sqrt(2 * jnp.asarray(delta, dtype) / metric)
            if self.model_minimum:
                s = jnp.minimum(s, slope / metric)
            # s = 1 if dᵀCd is 0, or negative because of rounding (for a very short d).
            return jnp.where(metric > 0, s, jnp.ones((), dtype))

        dtype = state.step_size.dtype
        accept = first_step | (f_eval_info.as_min() < f_info.as_min())
        shorter = jnp.asarray(self.decrease_factor, dtype) * state.step_size
        # The `cond` computes the product with C once per batch, not for every candidate.
        batches = state.batches + first_step.astype(jnp.int32)
        step_size = jax.lax.cond(first_step, begin, lambda: shorter)
        return step_size, accept, optx.RESULTS.successful, _State(step_size, batches)
