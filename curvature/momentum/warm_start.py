import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, PyTree, Scalar, ScalarLike

from .._checks import number, scalar
from .._trees import scaled, work_dtype
from ._base import AbstractMomentum, Direction
from .none import NoMomentum


class WarmStart(AbstractMomentum):
    """Iterative solvers start from `decay` times the previous direction.

    Martens 2010, "Deep learning via Hessian-free optimization", section 4.4, uses 0.95. It
    costs one more product per solve. An exact solver ignores the start.

    **Arguments:** `decay`, in [0, 1]; `of`, another momentum to combine with; default none.
    """

    decay: ScalarLike
    of: AbstractMomentum

    def __init__(self, decay: ScalarLike = 0.95, of: AbstractMomentum | None = None):
        known = number("WarmStart(decay=...)", decay)
        if known is not None and known > 1:
            raise ValueError(f"`WarmStart(decay=...)` must lie in [0, 1], got {decay}.")
        self.decay = scalar(decay)
        self.of = NoMomentum() if of is None else of

    def uses_last(self) -> bool:
        return True

    def start(self, last: PyTree[Array] | None) -> PyTree[Array]:
        return scaled(jnp.asarray(self.decay, work_dtype(last)), last)

    def offset(self, last: PyTree[Array] | None, damping: Scalar) -> PyTree[Array] | None:
        return self.of.offset(last, damping)

    def combine(
        self,
        found: Direction,
        last: PyTree[Array] | None,
        grad: PyTree[Array],
        operator: lx.AbstractLinearOperator,
        damping: Scalar,
    ) -> Direction:
        return self.of.combine(found, last, grad, operator, damping)
