import abc
from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, Bool, Int, PyTree, Scalar


class Batch(eqx.Module):
    """The information about a batch that a damping may use before the solve.

    - `step`: the number of previous steps.
    - `params`, `loss`: the weights, and the loss at these weights.
    - `loss_at`: computes the loss for other weights; costs a forward pass.
    - `scale`: computes gᵀCg/gᵀg, a measure of the size of C; costs about two gradients. NaN if g is
      zero or not finite.
    """

    step: Int[Array, ""]
    params: PyTree[Array]
    loss: Scalar
    loss_at: Callable[[PyTree[Array]], Scalar]
    scale: Callable[[], Scalar]


class Chosen(eqx.Module):
    """λ for one solve, and the next state.

    - `reduction_ratio`: a reduction ratio that the damping has computed, for the report; else None.
    """

    damping: Scalar
    state: PyTree[Array]
    reduction_ratio: Scalar | None = None


class Step(eqx.Module):
    """A step that was tried.

    - `params`: the weights before the step; `step_size` s; `slope` dᵀg; `metric` dᵀCd, undamped.
    - `reduction_ratio`: the actual change of the loss on the step's batch, divided by the change
      that the quadratic model predicts; None unless `needs_reduction_ratio`.
    - `accepted`: whether the step was accepted.
    - `first_ratio`: the `reduction_ratio` of the first step size that the search tried.
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

    @property
    def kind(self) -> str:
        """The class, with the settings on which the structure of the state depends.

        A step refuses the state of another kind.
        """
        return type(self).__name__

    @abc.abstractmethod
    def is_positive(self) -> bool:
        """Whether it is known before tracing that λ > 0 at every step."""

    @abc.abstractmethod
    def needs_reduction_ratio(self) -> bool:
        """Whether `update` needs the reduction ratio on the step's batch, a forward pass."""

    @abc.abstractmethod
    def begin(self, state: PyTree[Array], batch: Batch) -> Chosen:
        """Chooses λ for the solve on a batch; `Batch` lists the costs of its methods."""

    @abc.abstractmethod
    def update(self, chosen: Chosen, step: Step) -> PyTree[Array]:
        """The state after a step; `chosen` is what `begin` returned for this step."""
