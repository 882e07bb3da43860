import jax
import lineax as lx
from jaxtyping import PRNGKeyArray

from ..linearisation import AbstractLinearisation
from ._base import AbstractCurvature


class Identity(AbstractCurvature):
    """C = I, the Euclidean metric: the natural gradient is the gradient."""

    def operator(
        self, linearisation: AbstractLinearisation, *, key: PRNGKeyArray | None = None
    ) -> lx.AbstractLinearOperator:
        del key
        return lx.IdentityLinearOperator(jax.eval_shape(lambda: linearisation.params))
