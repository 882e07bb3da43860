import abc
from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, Bool, Int, PyTree, Scalar


class Batch(eqx.Module):
    """What a damping may ask of a batch before its solve.

    - `step`: how many steps were made before.
    - `params`, `loss`: the weights, and the loss there.
    - `loss_at`: the loss at other weights, for a forward pass.
    - `scale`: computes gᵀCg/gᵀg, a measure of C, for about two gradients; NaN where g is zero or
      not finite.
    """

    step: Int[Array, ""]
    params: PyTree[Array]
    loss: Scalar
    loss_at: Callable[[PyTree[Array]], Scalar]
    scale: Callable[[], Scalar]


class Chosen(eqx.Module):
    """λ for one solve, and the next state.

    - `reduction_ratio`: one that was found on the way, to be reported; else None.
    """

    damping: Scalar
    state: PyTree[Array]
    reduction_ratio: Scalar | None = None


class Step(eqx.Module):
    """A step that was made.

    - `params`: the weights before it; `step_size` s; `slope` dᵀg; `metric` dᵀCd, undamped.
    - `reduction_ratio`: the actual change of the loss on its own batch over the change that the
      quadratic model predicts; None unless `needs_reduction_ratio`.
    - `accepted`: whether the step was taken.
    - `first_ratio`: as `reduction_ratio`, of the first step size that the search tried.
    """

    params: PyTree[Array]
    step_size: Scalar
    slope: Scalar
    metric: Scalar
    reduction_ratio: Scalar | None
    accepted: Bool[Array, ""]
    first_ratio: Scalar | None = None


class AbstractDamping(eqx.Module):
    """Chooses λ of C + λI from step to step. Its state is any pytree of arrays."""

    @abc.abstractmethod
    def init(self, params: PyTree[Array]) -> PyTree[Array]:
        """The state before the first step; λ has the precision of the weights."""

    @abc.abstractmethod
    def is_positive(self) -> bool:
        """Whether λ is known, before anything runs, to be above zero at every step."""

    @abc.abstractmethod
    def needs_reduction_ratio(self) -> bool:
        """Whether `update` wants the reduction ratio on the step's batch: a forward pass."""

    @abc.abstractmethod
    def begin(self, state: PyTree[Array], batch: Batch) -> Chosen:
        """λ to solve with on a batch; what is asked of the batch costs what it says there."""

    @abc.abstractmethod
    def update(self, chosen: Chosen, step: Step) -> PyTree[Array]:
        """The state after a step that was made with what `begin` chose."""
