import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PRNGKeyArray, Real, Scalar, ScalarLike

from .._checks import number
from ._base import AbstractExponentialFamily, Coefficients
from ._shapes import target_like


class Gaussian(AbstractExponentialFamily):
    """A Gaussian around the outputs: nll(z, y) = ‖z − y‖²/(2σ²), the constant dropped.

    `variance` is σ², the same for every output; `y` has the shape of `z`.

    >>> import curvature as cv, jax.numpy as jnp
    >>> float(cv.Gaussian(variance=2.0).nll(jnp.zeros(3), jnp.full(3, 2.0)))
    3.0
    """

    variance: Scalar

    def __init__(self, variance: ScalarLike = 1.0):
        number("Gaussian(variance=...)", variance, positive=True)
        self.variance = jnp.asarray(variance)

    def nll(self, z: Float[Array, "*shape"], y: Real[Array, "*shape"]) -> Scalar:
        return jnp.sum((z - target_like(self, z, y)) ** 2) / (2 * self._variance(z))

    def sample(self, z: Float[Array, "*shape"], *, key: PRNGKeyArray) -> Float[Array, "*shape"]:
        return z + jnp.sqrt(self._variance(z)) * jax.random.normal(key, z.shape, z.dtype)

    def fisher_factor(self, z: Float[Array, "*shape"]) -> lx.AbstractLinearOperator:
        """S = I/σ, r = c."""
        return lx.DiagonalLinearOperator(jnp.full(z.size, 1 / jnp.sqrt(self._variance(z))))

    def thin_fisher_factor(self, z: Float[Array, "*shape"]) -> lx.AbstractLinearOperator:
        return self.fisher_factor(z)

    def fisher_coefficients(
        self, z: Float[Array, "*shape"], y: Real[Array, "*shape"]
    ) -> Coefficients:
        """ρ = (z − y)/σ."""
        residual = (z - target_like(self, z, y)) / jnp.sqrt(self._variance(z))
        return Coefficients(residual.ravel(), bounded=True)

    def kl(self, z: Float[Array, "*shape"], z2: Float[Array, "*shape"]) -> Scalar:
        return jnp.sum((z - z2) ** 2) / (2 * self._variance(z))

    def squared_hellinger(self, z: Float[Array, "*shape"], z2: Float[Array, "*shape"]) -> Scalar:
        return -jnp.expm1(-jnp.sum((z - z2) ** 2) / (8 * self._variance(z)))

    def _variance(self, z: Float[Array, "*shape"]) -> Scalar:
        return self.variance.astype(z.dtype)
