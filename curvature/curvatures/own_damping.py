import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, PRNGKeyArray, PyTree, Scalar, ScalarLike

from .._checks import number, scalar
from ..linearisation import AbstractLinearisation
from ..operators import AbstractInvertibleOperator, OwnDampingOperator
from ._base import AbstractCurvature, check_curvature

_NO_INVERSE = (
    "`OwnDamping(of=...)` must be a curvature with a damped inverse, such as the structure "
    "`KFAC(...)`, got `{}`. Use a structure of this curvature."
)


class OwnDamping(AbstractCurvature):
    """A structure whose inverse is (C + λ₀I)⁻¹, with its own λ₀ instead of the λ of the step.

    It is meant for a preconditioner. The Levenberg–Marquardt λ of an exact quadratic model may
    become so small that the noise of a sampled preconditioner dominates the direction.

    **Arguments:** `of`, a structure; `damping`, λ₀ > 0.
    """

    of: AbstractCurvature
    damping: ScalarLike

    def __init__(self, of: AbstractCurvature, damping: ScalarLike):
        check_curvature("OwnDamping(of=...)", of)
        number("OwnDamping(damping=...)", damping, positive=True)
        self.of, self.damping = of, scalar(damping)

    def operator(
        self, linearisation: AbstractLinearisation, *, key: PRNGKeyArray | None = None
    ) -> OwnDampingOperator:
        return self._wrapped(self.of.operator(linearisation, key=key))

    def init(self, linearisation: AbstractLinearisation | None) -> PyTree[Array]:
        return self.of.init(linearisation)

    def update(
        self,
        linearisation: AbstractLinearisation,
        state: PyTree[Array],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[OwnDampingOperator, PyTree[Array]]:
        operator, state = self.of.update(linearisation, state, key=key)
        return self._wrapped(operator), state

    def refresh(
        self, operator: lx.AbstractLinearOperator, state: PyTree[Array], damping: Scalar
    ) -> tuple[lx.AbstractLinearOperator, PyTree[Array]]:
        del damping
        assert isinstance(operator, OwnDampingOperator)
        refreshed, state = self.of.refresh(operator.operator, state, operator.damping)
        return self._wrapped(refreshed), state

    def _wrapped(self, operator: lx.AbstractLinearOperator) -> OwnDampingOperator:
        if not isinstance(operator, AbstractInvertibleOperator):
            raise ValueError(_NO_INVERSE.format(type(self.of).__name__))
        return OwnDampingOperator(operator, jnp.asarray(self.damping))
