import lineax as lx
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..likelihoods import AbstractExponentialFamily, AbstractLoss, Coefficients
from ._base import AbstractCoveringPullback, output_hessian, symmetric_root


class GaussNewton(AbstractCoveringPullback):
    """M_i = ∇²_z nll(z_i, y_i), the generalised Gauss–Newton matrix; r = c.

    If the outputs are natural parameters (`AbstractExponentialFamily`), M_i is the Fisher, and the
    likelihood provides S in closed form. For any other loss S is the symmetric square root of the
    Hessian, which is computed by autodiff, with *negative eigenvalues clipped to 0*. For a loss
    that is not convex in z, S Sᵀ is then the PSD matrix nearest to M_i (in the Frobenius norm).
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
