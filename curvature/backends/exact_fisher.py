import lineax as lx
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..likelihoods import AbstractLoss
from ._base import AbstractPullback, needs


class ExactFisher(AbstractPullback):
    """M_i = E_{t∼p(·|z_i)}[g gᵀ], g = ∇_z nll(z_i, t), in closed form; r = c."""

    def factor(
        self,
        likelihood: AbstractLoss,
        z: Float[Array, "*shape"],
        y: PyTree[Array],
        *,
        key: PRNGKeyArray | None,
    ) -> lx.AbstractLinearOperator:
        del y, key
        return needs(self, likelihood, "fisher_factor")(z)
