import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, PyTree, Scalar

from .._trees import add_scaled, scaled, vdot
from ..operators import quadratic_forms
from ._base import AbstractMomentum, Direction


class QuadraticMomentum(AbstractMomentum):
    """Learning rate and momentum from the quadratic model: d ← αd + βφ minimises the model.

        [dᵀBd  dᵀBφ] [α]   [gᵀd]
        [φᵀBd  φᵀBφ] [β] = [gᵀφ],    B = C + λI

    in the plane of the new direction d and the previous direction φ (Martens and Grosse 2015,
    "Optimizing neural networks with Kronecker-factored approximate curvature", section 7). It
    costs two forward products, since dᵀCd = Σ scale ‖SᵀJd‖². If d is the exact solution, it is
    already the minimum, with (α, β) = (1, 0); after a truncated solve, α and β correct d. If φ is a
    multiple of d up to rounding, β = 0.
    """

    def uses_last(self) -> bool:
        return True

    def start(self, last: PyTree[Array] | None) -> None:
        del last

    def offset(self, last: PyTree[Array] | None, damping: Scalar) -> None:
        del last, damping

    def combine(
        self,
        found: Direction,
        last: PyTree[Array] | None,
        grad: PyTree[Array],
        operator: lx.AbstractLinearOperator,
        damping: Scalar,
    ) -> Direction:
        d = found.vector
        forms = quadratic_forms(operator, (d, last)).astype(found.slope.dtype)
        C_dd, C_dp, C_pp = jnp.maximum(forms[0, 0], 0), forms[0, 1], jnp.maximum(forms[1, 1], 0)
        dd, dp, pp = found.squared_norm, vdot(d, last), vdot(last, last)
        B_dd = C_dd + damping * dd
        B_dp, B_pp = C_dp + damping * dp, C_pp + damping * pp
        slope_p = vdot(grad, last)
        # Elimination instead of Cramer's rule: the determinant is a product of two forms, which can
        # over- or underflow in float32. A direction without curvature, such as d = 0, is kept.
        B_dd = jnp.where(B_dd > 0, B_dd, 1)
        alone, along = found.slope / B_dd, B_dp / B_dd
        left = B_pp - B_dp * along  # the form of φ without its component along d
        independent = left > float(jnp.finfo(left.dtype).eps) ** 0.5 * B_pp
        beta = jnp.where(independent, (slope_p - B_dp * alone) / jnp.where(independent, left, 1), 0)
        alpha = alone - beta * along
        return Direction(
            vector=add_scaled(scaled(alpha, d), beta, last),
            slope=alpha * found.slope + beta * slope_p,
            metric=_square(alpha, beta, C_dd, C_dp, C_pp),
            squared_norm=_square(alpha, beta, dd, dp, pp),
        )


def _square(a: Scalar, b: Scalar, dd: Scalar, dp: Scalar, pp: Scalar) -> Scalar:
    """The quadratic form of ad + bφ; at least 0, since rounding could make it negative."""
    return jnp.maximum(a**2 * dd + 2 * a * b * dp + b**2 * pp, 0)
