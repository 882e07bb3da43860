"""The reduction ratio of the previous steps, each evaluated on the batch after its own."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, PyTree, Scalar

from .._rounding import is_rounding
from ._base import Batch, Step

# At each step, the new average is 4/5 of the previous average plus 1/5 of the new value.
_DECAY = 0.8


class LastStep(eqx.Module):
    """A step to be evaluated on the next batch, and the averages over the steps before it.

    - `params`, `step_size`, `slope`, `metric`, `accepted`: as in `Step`.
    - `actual`, `predicted`: see `evaluate_last`; 0 until a step was evaluated.
    """

    params: PyTree[Array]
    step_size: Scalar
    slope: Scalar
    metric: Scalar
    accepted: Bool[Array, ""]
    actual: Scalar
    predicted: Scalar

    @classmethod
    def none(cls, params: PyTree[Array], dtype: Any) -> "LastStep":
        """The value before the first step; copies the weights, so both buffers can be donated."""
        copied = jtu.tree_map(lambda leaf: jnp.array(leaf, copy=True), params)
        size, slope, metric, actual, predicted = (jnp.zeros((), dtype) for _ in range(5))
        return cls(copied, size, slope, metric, jnp.zeros((), bool), actual, predicted)

    def followed_by(self, step: Step) -> "LastStep":
        """The value after another step, with the same averages."""
        dtype = self.actual.dtype
        size, slope, metric = (
            new.astype(dtype) for new in (step.step_size, step.slope, step.metric)
        )
        return LastStep(
            step.params, size, slope, metric, step.accepted, self.actual, self.predicted
        )


def evaluate_last(last: LastStep, batch: Batch) -> tuple[LastStep, Scalar]:
    """The reduction ratio of the previous steps, each evaluated on the batch after its own.

        ρ = avg[(L'(w) − L'(w − sd)) / m] / avg[(s dᵀg' − ½s² dᵀCd) / m],  m = s dᵀg − ½s² dᵀCd

    with the loss L' and the gradient g' = ∇L'(w) of the next batch, and C of the step's own batch.
    The prediction m of the own batch is wrong for the next batch, even for a very short step: d
    contains the noise of its own gradient g. The prediction with g' instead of g does not have this
    error, so ρ measures only the quality of C and the length of the step. If every batch is the
    full data, ρ of each step is that on its own batch.

    The differences for a single batch are mostly noise. They are therefore averaged: 4/5 of the
    previous average plus 1/5 of the value of this step. If the averaged prediction is not above
    zero, ρ is −∞.

    **Returns:** the step with the new averages, and ρ; ρ is 1 until a step was evaluated.
    """
    s, curved = last.step_size, last.step_size**2 * last.metric / 2
    own = s * last.slope - curved
    back = jtu.tree_map(jnp.subtract, last.params, batch.params)  # s d
    before, linear = jax.jvp(batch.loss_at, (last.params,), (back,))
    predicted = linear.astype(own.dtype) - curved
    # Near a minimum, the difference of two losses is rounding error.
    noise = is_rounding(before, batch.loss, own.astype(batch.loss.dtype))
    actual = jnp.where(noise, predicted, (before - batch.loss).astype(own.dtype))
    shares = actual / own, predicted / own
    informative = last.accepted & jnp.isfinite(shares[0]) & jnp.isfinite(shares[1])
    # The first value has no previous average (0 means: none) and is taken as it is.
    decay = jnp.where(last.predicted == 0, 0, jnp.asarray(_DECAY, own.dtype))
    averages = tuple(
        jnp.where(informative, decay * average + (1 - decay) * new, average)
        for average, new in zip((last.actual, last.predicted), shares, strict=True)
    )
    new = eqx.tree_at(lambda last: (last.actual, last.predicted), last, averages)
    ratio = jnp.where(new.predicted > 0, new.actual / new.predicted, -jnp.inf)
    return new, jnp.where(new.predicted == 0, 1, ratio)
