import lineax as lx
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..likelihoods import AbstractExponentialFamily, AbstractLoss, Coefficients
from ._base import AbstractCoveringPullback, require_method


class ExactFisher(AbstractCoveringPullback):
    """M_i = E_{t∼p(·|z_i)}[g gᵀ], g = ∇_z nll(z_i, t), in closed form; r ≤ c."""

    def factor(
        self,
        likelihood: AbstractLoss,
        z: Float[Array, "*shape"],
        y: PyTree[Array],
        *,
        key: PRNGKeyArray | None,
    ) -> lx.AbstractLinearOperator:
        del y, key
        if isinstance(likelihood, AbstractExponentialFamily):
            return likelihood.thin_fisher_factor(z)
        return require_method(self, likelihood, "fisher_factor")(z)

    def coefficients(
        self, likelihood: AbstractLoss, z: Float[Array, "*shape"], y: PyTree[Array]
    ) -> Coefficients | None:
        if isinstance(likelihood, AbstractExponentialFamily):
            return likelihood.fisher_coefficients(z, y)
        return None
