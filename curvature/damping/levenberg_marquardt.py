from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree, Scalar, ScalarLike

from .._branches import update_where
from .._checks import number, scalar
from .._trees import work_dtype
from ._base import AbstractDamping, Batch, Chosen, Step
from ._next_batch import LastStep, evaluate_last

# Martens 2010, "Deep learning via Hessian-free optimization", section 4.1.
_THRESHOLDS = (1 / 4, 3 / 4)
_FACTORS = (3 / 2, 2 / 3)
# A rejected step means that the quadratic model is useless, not only inaccurate: λ rises faster.
_REJECTED = 4.0
# With `next_batch`, ρ is an average, which responds to a change of λ only after a few steps. λ must
# therefore change more slowly: the factors have this exponent.
_SLOWER = 1 / 3


class _State(eqx.Module):
    """λ, and with `next_batch` the step to be evaluated on the next batch."""

    damping: Scalar
    last: LastStep | None


class LevenbergMarquardt(AbstractDamping):
    """Adapts λ to how well the quadratic model predicts the loss (Levenberg–Marquardt).

    With the reduction ratio ρ: λ ← 3/2 λ if ρ < 1/4; λ ← 2/3 λ if ρ > 3/4; else unchanged
    (Martens 2010, section 4.1). A rejected step multiplies λ by 4. λ stays within
    [`minimum`, `maximum`].

    On small batches, the reduction ratio on a step's own batch is misleading: a step with a small λ
    changes the loss of that batch as predicted, but raises the loss of all others. With
    `next_batch`, ρ is an average over the previous steps, each evaluated on the batch after its
    own. λ is then multiplied by the cube root of the factors above. This costs about one more
    forward pass.

    **Arguments:**

    - `initial`: λ of the first step. None for gᵀCg/gᵀg on the first batch where this is finite;
      until then λ = 0. gᵀCg/gᵀg is the curvature along the gradient and has the units and the size
      of C.
    - `minimum`: the least λ. None for eps of the weights' dtype, 1.2e-7 or 2.2e-16.
    - `maximum`: the largest λ.
    - `next_batch`: whether ρ of a step is evaluated on the batch after its own.
    - `whole`: whether ρ is that of the first step size that the search tries (1 for Armijo's),
      instead of that of the last one. A step that the search has halved many times has a good ρ, so
      without `whole` a λ that is far too small does not rise.
    - `thresholds`, `factors`: for ρ and for λ, instead of (1/4, 3/4) and (3/2, 2/3).
    """

    initial: ScalarLike | None
    minimum: ScalarLike | None
    maximum: ScalarLike
    next_batch: bool = eqx.field(static=True)
    whole: bool = eqx.field(static=True)
    thresholds: tuple[ScalarLike, ScalarLike]
    factors: tuple[ScalarLike, ScalarLike]

    def __init__(
        self,
        initial: ScalarLike | None = None,
        minimum: ScalarLike | None = None,
        maximum: ScalarLike = 1e8,
        next_batch: bool = False,
        whole: bool = False,
        thresholds: Sequence[ScalarLike] = _THRESHOLDS,
        factors: Sequence[ScalarLike] = _FACTORS,
    ):
        bounds = {"minimum": minimum, "initial": initial, "maximum": maximum}
        checked = [
            number(f"LevenbergMarquardt({name}=...)", value, positive=True)
            for name, value in bounds.items()
            if value is not None
        ]
        known = [bound for bound in checked if bound is not None]  # the others are traced
        if known != sorted(known):
            raise ValueError(
                "`LevenbergMarquardt(initial=..., minimum=..., maximum=...)` must satisfy "
                f"minimum ≤ initial ≤ maximum, got {initial}, {minimum}, {maximum}."
            )
        self.initial = None if initial is None else scalar(initial)
        self.minimum = None if minimum is None else scalar(minimum)
        self.maximum = scalar(maximum)
        self.next_batch = next_batch
        self.whole = whole
        self.thresholds = _pair("thresholds", thresholds)
        self.factors = _pair("factors", factors)
        if whole and next_batch:
            raise ValueError(
                "`LevenbergMarquardt(whole=True)` computes the reduction ratio on the batch of "
                "the step, and `next_batch=True` on the next batch. Set only one of them."
            )

    def init(self, params: PyTree[Array]) -> _State:
        dtype = work_dtype(params)
        # λ = 0 means: not initialised yet.
        first = jnp.asarray(0 if self.initial is None else self.initial, dtype)
        return _State(first, LastStep.none(params, dtype) if self.next_batch else None)

    @property
    def kind(self) -> str:
        name = type(self).__name__
        return f"{name}(next_batch=True)" if self.next_batch else name

    def is_positive(self) -> bool:
        return True

    def needs_reduction_ratio(self) -> bool:
        return not self.next_batch

    def begin(self, state: _State, batch: Batch) -> Chosen:
        damping, last, ratio = state.damping, state.last, None
        if last is not None:
            last, ratio = evaluate_last(last, batch)
            # A batch whose loss is not finite cannot evaluate the step before it.
            informative = (batch.step > 0) & jnp.isfinite(batch.loss)
            updated = self._updated(damping, ratio, last.accepted)
            damping = jnp.where(informative, updated, damping)
        damping = jnp.where(damping > 0, self._within_bounds(damping), damping)
        if self.initial is None:

            def from_batch() -> Scalar:
                size = batch.scale().astype(damping.dtype)
                return jnp.where(jnp.isfinite(size), self._within_bounds(size), 0)

            damping = update_where(damping == 0, from_batch, damping)
        return Chosen(damping, _State(damping, last), ratio)

    def update(self, chosen: Chosen, step: Step) -> _State:
        state: _State = chosen.state
        if state.last is not None:
            return _State(state.damping, state.last.followed_by(step))
        ratio = step.first_ratio if self.whole else step.reduction_ratio
        assert ratio is not None, "only called if `needs_reduction_ratio` is true"
        return _State(self._updated(state.damping, ratio, step.accepted), None)

    def _updated(self, damping: Scalar, ratio: Scalar, accepted: Bool[Array, ""]) -> Scalar:
        settings = (*self.thresholds, *self.factors)
        low, high, raised, lowered = (jnp.asarray(x, damping.dtype) for x in settings)
        factor = jnp.where(ratio < low, raised, 1)
        factor = jnp.where(ratio > high, lowered, factor)
        if self.next_batch:
            factor = factor**_SLOWER
        factor = jnp.where(accepted, factor, _REJECTED).astype(damping.dtype)
        updated = self._within_bounds(damping * factor)
        # λ = 0, not initialised yet, must stay 0; the bounds would raise it to the minimum.
        return updated if self.initial is not None else jnp.where(damping == 0, 0, updated)

    def _within_bounds(self, damping: Scalar) -> Scalar:
        dtype = damping.dtype
        low = jnp.finfo(dtype).eps if self.minimum is None else self.minimum
        return jnp.clip(damping, jnp.asarray(low, dtype), jnp.asarray(self.maximum, dtype))


def _pair(name: str, values: Sequence[ScalarLike]) -> tuple[ScalarLike, ScalarLike]:
    """Two positive numbers."""
    if not isinstance(values, Sequence) or len(values) != 2:
        raise ValueError(f"`LevenbergMarquardt({name}=...)` must be two numbers, got {values!r}.")
    for value in values:
        number(f"LevenbergMarquardt({name}=...)", value, positive=True)
    return scalar(values[0]), scalar(values[1])
