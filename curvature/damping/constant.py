import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree, ScalarLike

from .._checks import number, scalar
from .._trees import work_dtype
from ._base import AbstractDamping, Batch, Chosen, Step


class ConstantDamping(AbstractDamping):
    """λ = `value` ≥ 0 at every step."""

    value: ScalarLike
    positive: bool = eqx.field(
        static=True
    )  # a traced value may be zero, and a tiny one is in float32

    def __init__(self, value: ScalarLike):
        known = number("ConstantDamping(value=...)", value)
        self.value = scalar(value)
        self.positive = known is not None and bool(np.float32(known) > 0)

    def init(self, params: PyTree) -> None:
        del params

    def is_positive(self) -> bool:
        return self.positive

    def needs_reduction_ratio(self) -> bool:
        return False

    def begin(self, state: None, batch: Batch) -> Chosen:
        return Chosen(jnp.asarray(self.value, work_dtype(batch.params)), state)

    def update(self, chosen: Chosen, step: Step) -> None:
        del chosen, step
