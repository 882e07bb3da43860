import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PRNGKeyArray, Real, Scalar

from ._base import AbstractExponentialFamily, Coefficients
from ._shapes import target_like


class Bernoulli(AbstractExponentialFamily):
    """Independent Bernoulli outputs: nll(z, y) = Σ_d softplus(z_d) − y_d z_d, logits `z`.

    `y` has the shape of `z`, with values in [0, 1]: grey pixels are allowed.

    >>> import curvature as cv, jax.numpy as jnp
    >>> round(float(cv.Bernoulli().nll(jnp.zeros(2), jnp.ones(2))), 4)  # 2 log 2
    1.3863
    """

    def nll(self, z: Float[Array, "*shape"], y: Real[Array, "*shape"]) -> Scalar:
        return jnp.sum(jax.nn.softplus(z) - target_like(self, z, y) * z)

    def sample(self, z: Float[Array, "*shape"], *, key: PRNGKeyArray) -> Float[Array, "*shape"]:
        return jax.random.bernoulli(key, jax.nn.sigmoid(z)).astype(z.dtype)

    def fisher_factor(self, z: Float[Array, "*shape"]) -> lx.AbstractLinearOperator:
        """S = diag(√(p(1−p))), r = c."""
        return lx.DiagonalLinearOperator(_deviation(z).ravel())

    def thin_fisher_factor(self, z: Float[Array, "*shape"]) -> lx.AbstractLinearOperator:
        return self.fisher_factor(z)

    def fisher_coefficients(
        self, z: Float[Array, "*shape"], y: Real[Array, "*shape"]
    ) -> Coefficients:
        """ρ = (p − y)/√(p(1−p)): −√((1−p)/p) for y = 1, √(p/(1−p)) for y = 0."""
        residual = jax.nn.sigmoid(z) - target_like(self, z, y)
        return Coefficients((residual / _deviation(z)).ravel(), bounded=False)

    def kl(self, z: Float[Array, "*shape"], z2: Float[Array, "*shape"]) -> Scalar:
        # By the two outcomes: a difference of softplus would cancel for large logits.
        one = jax.nn.sigmoid(z) * (jax.nn.log_sigmoid(z) - jax.nn.log_sigmoid(z2))
        zero = jax.nn.sigmoid(-z) * (jax.nn.log_sigmoid(-z) - jax.nn.log_sigmoid(-z2))
        return jnp.sum(one + zero)

    def squared_hellinger(self, z: Float[Array, "*shape"], z2: Float[Array, "*shape"]) -> Scalar:
        ones = (jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(z2)) / 2
        zeros = (jax.nn.log_sigmoid(-z) + jax.nn.log_sigmoid(-z2)) / 2
        return -jnp.expm1(jnp.sum(jnp.logaddexp(ones, zeros)))


def _deviation(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """√(p(1−p)), each root taken of its own sigmoid: p(1−p) would lose 1−p for large z."""
    return jnp.exp((jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(-z)) / 2)
