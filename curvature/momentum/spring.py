import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, PyTree, Scalar, ScalarLike

from .._checks import fraction, scalar
from .._trees import scaled
from ._base import AbstractMomentum, Direction


class Spring(AbstractMomentum):
    """Projected momentum: d = argmin of the quadratic model + ½λ‖d − μφ‖².

        (C + λI) d = g + λμφ,    so    d = μφ + (C + λI)⁻¹(g − μCφ)

    In the null space of C the previous direction φ is kept, scaled by μ; elsewhere it fades. In
    the space of the samples this is SPRING (Goldshlager, Abrahamsen and Lin 2024, "A
    Kaczmarz-inspired approach to accelerate the optimization of neural network wavefunctions",
    section 3): ζ = ρ − μAφ, d = Aᵀ(AAᵀ + λI)⁻¹ζ + μφ. The equation above does not depend on the
    solver. The norm of d is at most 1/(1 − μ) times the largest norm that d would have without
    momentum; in the limit of a small λ, at most 1/√(1 − μ²) times.

    **Arguments:** `decay`, μ in [0, 1).
    """

    decay: ScalarLike

    def __init__(self, decay: ScalarLike = 0.9):
        fraction("Spring(decay=...)", decay)
        self.decay = scalar(decay)

    def uses_last(self) -> bool:
        return True

    def start(self, last: PyTree[Array] | None) -> None:
        del last

    def offset(self, last: PyTree[Array] | None, damping: Scalar) -> PyTree[Array]:
        return scaled(damping * jnp.asarray(self.decay, damping.dtype), last)

    def combine(
        self,
        found: Direction,
        last: PyTree[Array] | None,
        grad: PyTree[Array],
        operator: lx.AbstractLinearOperator,
        damping: Scalar,
    ) -> Direction:
        del last, grad, operator, damping
        return found
