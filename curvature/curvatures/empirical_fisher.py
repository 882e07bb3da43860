import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..likelihoods import AbstractLoss, Coefficients
from ._base import AbstractCoveringPullback


class EmpiricalFisher(AbstractCoveringPullback):
    """M_i = g_i g_iᵀ, g_i = ∇_z nll(z_i, y_i) at the target from the data; r = 1.

    C is the mean of the outer products of the *per-example* gradients (not the outer product of
    the mean gradient, which has rank one). C is not an estimate of the Fisher matrix: see Kunstner
    et al. 2019, "Limitations of the empirical Fisher approximation".
    """

    def factor(
        self,
        likelihood: AbstractLoss,
        z: Float[Array, "*shape"],
        y: PyTree[Array],
        *,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "c 1"]:
        del key
        return jnp.ravel(jax.grad(likelihood.nll)(z, y))[:, None]

    def coefficients(
        self, likelihood: AbstractLoss, z: Float[Array, "*shape"], y: PyTree[Array]
    ) -> Coefficients:
        """ρ = 1: S is the gradient."""
        del likelihood, y
        return Coefficients(jnp.ones(1, z.dtype), bounded=True)
