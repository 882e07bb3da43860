import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import Array, Bool, Int, Scalar


class AbstractDamping(eqx.Module):
    """Chooses λ of C + λI from step to step. Its state is λ itself, a scalar array."""

    @abc.abstractmethod
    def init(self, dtype: Any) -> Scalar:
        """λ before the first step, in the dtype of the weights."""

    @abc.abstractmethod
    def is_positive(self) -> bool:
        """Whether λ is known, before anything runs, to be above zero at every step."""

    @abc.abstractmethod
    def needs_reduction_ratio(self) -> bool:
        """Whether `update` looks at the reduction ratio, which costs a forward pass."""

    @abc.abstractmethod
    def judges_on_next_batch(self) -> bool:
        """Whether that is the ratio of the loss of the next batch, which the step has not seen."""

    @abc.abstractmethod
    def begin(
        self, damping: Scalar, *, step: Int[Array, ""], scale: Callable[[], Scalar]
    ) -> Scalar:
        """λ to solve with, of the same shape and dtype.

        **Arguments:** `damping`, from `init` or the last `update`; `step`, how many there were
        before; `scale`, computes gᵀCg/gᵀg on this batch, a measure of C for two gradients.
        """

    @abc.abstractmethod
    def update(
        self, damping: Scalar, *, reduction_ratio: Scalar, accepted: Bool[Array, ""]
    ) -> Scalar:
        """λ after a step, of the same shape and dtype.

        **Arguments:** `damping`, λ of the step just made; `reduction_ratio`, the actual change of
        the loss over the change that the quadratic model with the undamped C predicts (NaN where
        it was not computed); `accepted`, whether the step was taken.
        """
