import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree, Real, Scalar, ScalarLike

from .._checks import number, scalar
from ._base import AbstractExponentialFamily, Coefficients
from ._factors import DiagonalFactor
from ._metric import Metric, mean_square
from ._shapes import target_like


class Gaussian(AbstractExponentialFamily):
    """A Gaussian around the outputs: nll(z, y) = ‖z − y‖²/(2σ²), the constant dropped.

    `variance` is σ², the same for every output; `y` has the shape of `z`. If a value of `y` is not
    finite, the loss and its gradient are NaN.

        >>> import curvature as cv, jax.numpy as jnp
        >>> float(cv.Gaussian(variance=2.0).nll(jnp.zeros(3), jnp.full(3, 2.0)))
        3.0
    """

    variance: ScalarLike

    def __init__(self, variance: ScalarLike = 1.0):
        number("Gaussian(variance=...)", variance, positive=True)
        self.variance = scalar(variance)

    def nll(self, z: Float[Array, "*shape"], y: Real[Array, "*shape"]) -> Scalar:
        return jnp.sum((z - self._target(z, y)) ** 2) / (2 * self._variance(z))

    def in_domain(self, z: Float[Array, "*shape"], y: Real[Array, "*shape"]) -> Bool[Array, ""]:
        return jnp.all(jnp.isfinite(target_like(self, z, y)))

    def domain(self, z_shape: tuple[int, ...], y: PyTree) -> str:
        del z_shape, y
        return "finite real targets"

    def metrics(self) -> tuple[Metric, ...]:
        """The root mean square of z − y."""
        return (Metric("l2_error", mean_square, math.sqrt),)

    def sample(self, z: Float[Array, "*shape"], *, key: PRNGKeyArray) -> Float[Array, "*shape"]:
        return z + jnp.sqrt(self._variance(z)) * jax.random.normal(key, z.shape, z.dtype)

    def fisher_factor(self, z: Float[Array, "*shape"]) -> DiagonalFactor:
        """S = I/σ, r = c."""
        return DiagonalFactor(jnp.full(z.size, 1 / jnp.sqrt(self._variance(z))))

    def thin_fisher_factor(self, z: Float[Array, "*shape"]) -> DiagonalFactor:
        return self.fisher_factor(z)

    def fisher_coefficients(
        self, z: Float[Array, "*shape"], y: Real[Array, "*shape"]
    ) -> Coefficients:
        """ρ = (z − y)/σ."""
        residual = (z - self._target(z, y)) / jnp.sqrt(self._variance(z))
        return Coefficients(residual.ravel(), bounded=True)

    def kl(self, z: Float[Array, "*shape"], z2: Float[Array, "*shape"]) -> Scalar:
        return jnp.sum((z - z2) ** 2) / (2 * self._variance(z))

    def squared_hellinger(self, z: Float[Array, "*shape"], z2: Float[Array, "*shape"]) -> Scalar:
        return -jnp.expm1(-jnp.sum((z - z2) ** 2) / (8 * self._variance(z)))

    def _target(self, z: Float[Array, "*shape"], y: Real[Array, "*shape"]) -> Array:
        """`y` in the dtype of `z`, NaN where `y` is outside the domain."""
        y = target_like(self, z, y)
        return jnp.where(jnp.isfinite(y), y, jnp.nan)

    def _variance(self, z: Float[Array, "*shape"]) -> Scalar:
        return jnp.asarray(self.variance, z.dtype)
