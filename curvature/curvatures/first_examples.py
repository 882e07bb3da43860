import equinox as eqx
import lineax as lx
from jaxtyping import Array, PRNGKeyArray, PyTree, Scalar

from .._checks import positive_int
from ..linearisation import AbstractLinearisation
from ._base import AbstractCurvature, check_curvature


class FirstExamples(AbstractCurvature):
    """The curvature `of`, from the first `examples` examples of each term alone.

    The gradient still uses all examples. A batch may have fewer than `examples`. An exact solve in
    sample space costs more with this curvature, since the gradient is no linear combination of the
    rows A of C = AᵀA.
    """

    of: AbstractCurvature
    examples: int

    def __check_init__(self):
        check_curvature("FirstExamples(of=...)", self.of)
        positive_int("FirstExamples(examples=...)", self.examples)

    def operator(
        self, linearisation: AbstractLinearisation, *, key: PRNGKeyArray | None = None
    ) -> lx.AbstractLinearOperator:
        return self.of.operator(linearisation.first(self.examples), key=key)

    def init(self, linearisation: AbstractLinearisation | None) -> PyTree[Array]:
        if linearisation is None:
            return self.of.init(None)
        return self.of.init(
            eqx.filter_eval_shape(lambda here: here.first(self.examples), linearisation)
        )

    def update(
        self,
        linearisation: AbstractLinearisation,
        state: PyTree[Array],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[lx.AbstractLinearOperator, PyTree[Array]]:
        return self.of.update(linearisation.first(self.examples), state, key=key)

    def refresh(
        self, operator: lx.AbstractLinearOperator, state: PyTree[Array], damping: Scalar
    ) -> tuple[lx.AbstractLinearOperator, PyTree[Array]]:
        return self.of.refresh(operator, state, damping)
