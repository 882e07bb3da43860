"""How well the last step did on a batch that it has not seen."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, PyTree, Scalar

from ...searches import is_hidden

# The averages over the steps forget a fifth at each.
_DECAY = 0.8


class LastStep(eqx.Module):
    """A step that is still to be judged, and what was found of those before it.

    - `params`: the weights before it; `step_size`, s; `slope`, dᵀg; `metric`, dᵀCd.
    - `accepted`: whether it was taken.
    - `gained`, `promised`: see [`judge`][]; 0 as long as no step was judged.
    """

    params: PyTree[Array]
    step_size: Scalar
    slope: Scalar
    metric: Scalar
    accepted: Bool[Array, ""]
    gained: Scalar
    promised: Scalar

    @classmethod
    def none(cls, params: PyTree[Array], dtype: Any) -> "LastStep":
        """Before the first step."""
        zero = jnp.zeros((), dtype)
        return cls(params, zero, zero, zero, jnp.zeros((), bool), zero, zero)

    def followed_by(
        self,
        params: PyTree[Array],
        step_size: Scalar,
        slope: Scalar,
        metric: Scalar,
        accepted: Bool[Array, ""],
    ) -> "LastStep":
        """The next step, with the averages of this one."""
        step_size, slope, metric = (
            new.astype(self.gained.dtype) for new in (step_size, slope, metric)
        )
        return LastStep(params, step_size, slope, metric, accepted, self.gained, self.promised)


def judge(
    last: LastStep,
    params: PyTree[Array],
    loss: Scalar,
    loss_at: Callable[[PyTree[Array]], Scalar],
) -> tuple[LastStep, Scalar]:
    """The reduction ratio of the last steps, each on the batch after its own.

        ρ = avg[(L'(w) − L'(w − sd)) / m] / avg[(s dᵀg' − ½s² dᵀCd) / m],  m = s dᵀg − ½s² dᵀCd

    with the loss L' and the gradient g' = ∇L'(w) of the next batch, and C of the own. The own
    prediction m would be wrong for the next batch however short the step, since d follows the
    noise of its own gradient; with g' in its place only C, and the length of the step, are on
    trial. On full batches each step gives the ratio that it has on its own batch.

    The differences for a single batch are mostly noise, hence the averages, 4/5 of the last one
    and 1/5 of this step. Where even the average promise is not above zero, ρ is −∞.

    **Arguments:** `params` and `loss`, of the weights after it on this batch; `loss_at`, the loss
    of other weights on this batch.

    **Returns:** the step with new averages, and ρ; NaN where nothing was judged yet.
    """
    s, curved = last.step_size, last.step_size**2 * last.metric / 2
    own = s * last.slope - curved
    back = jtu.tree_map(jnp.subtract, last.params, params)  # s d
    before, linear = jax.jvp(loss_at, (last.params,), (back,))
    promised = linear.astype(own.dtype) - curved
    # Near a minimum the difference of two losses is noise.
    hidden = is_hidden(before, loss, own.astype(loss.dtype))
    gained = jnp.where(hidden, promised, (before - loss).astype(own.dtype))
    found = gained / own, promised / own
    informative = last.accepted & jnp.isfinite(found[0]) & jnp.isfinite(found[1])
    decay = jnp.where(last.promised == 0, 0, jnp.asarray(_DECAY, own.dtype))
    averages = tuple(
        jnp.where(informative, decay * average + (1 - decay) * new, average)
        for average, new in zip((last.gained, last.promised), found, strict=True)
    )
    judged = eqx.tree_at(lambda last: (last.gained, last.promised), last, averages)
    ratio = jnp.where(judged.promised > 0, judged.gained / judged.promised, -jnp.inf)
    return judged, jnp.where(judged.promised == 0, jnp.nan, ratio)
