import lineax as lx
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..likelihoods import AbstractExponentialFamily, AbstractLoss, Coefficients
from ._base import AbstractCoveringPullback, output_hessian, symmetric_root


class GaussNewton(AbstractCoveringPullback):
    """M_i = ∇²_z nll(z_i, y_i), the generalised Gauss–Newton matrix; r = c.

    S is the closed form of the likelihood where its outputs are natural parameters
    (`AbstractExponentialFamily`, where M_i is the Fisher). For any other loss it is the symmetric
    square root of the Hessian by autodiff, with *negative eigenvalues clipped to 0*: for a loss
    that is not convex in z, C is then the nearest PSD matrix per example (in the Frobenius norm).
    """

    def factor(
        self,
        likelihood: AbstractLoss,
        z: Float[Array, "*shape"],
        y: PyTree[Array],
        *,
        key: PRNGKeyArray | None,
    ) -> lx.AbstractLinearOperator | Float[Array, "c c"]:
        del key
        if isinstance(likelihood, AbstractExponentialFamily):
            return likelihood.thin_fisher_factor(z)
        return symmetric_root(output_hessian(lambda z: likelihood.nll(z, y), z))

    def coefficients(
        self, likelihood: AbstractLoss, z: Float[Array, "*shape"], y: PyTree[Array]
    ) -> Coefficients | None:
        if isinstance(likelihood, AbstractExponentialFamily):
            return likelihood.fisher_coefficients(z, y)
        return None
