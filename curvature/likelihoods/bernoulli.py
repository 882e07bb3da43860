import math
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree, Real, Scalar

from ._base import AbstractExponentialFamily, Coefficients
from ._factors import DiagonalFactor
from ._metric import Metric, mean_square
from ._shapes import target_like

_Target: TypeAlias = Real[Array, "*shape"] | Bool[Array, "*shape"]


class Bernoulli(AbstractExponentialFamily):
    """Independent Bernoulli outputs: nll(z, y) = Σ_d softplus(z_d) − y_d z_d, logits `z`.

    `y` has the shape of `z`, with values in [0, 1]: grey pixels are allowed. For a value outside
    [0, 1], the loss and its gradient are NaN.

        >>> import curvature as cv, jax.numpy as jnp
        >>> round(float(cv.Bernoulli().nll(jnp.zeros(2), jnp.ones(2))), 4)  # 2 log 2
        1.3863
    """

    def nll(self, z: Float[Array, "*shape"], y: _Target) -> Scalar:
        return jnp.sum(jax.nn.softplus(z) - self._target(z, y) * z)

    def in_domain(self, z: Float[Array, "*shape"], y: _Target) -> Bool[Array, ""]:
        return jnp.all(_valid(target_like(self, z, y)))

    def domain(self, z_shape: tuple[int, ...], y: PyTree) -> str:
        del z_shape, y
        return "targets from 0 to 1"

    def metrics(self) -> tuple[Metric, ...]:
        """The root mean square of p − y."""
        return (Metric("l2_error", lambda z, y: mean_square(jax.nn.sigmoid(z), y), math.sqrt),)

    def sample(self, z: Float[Array, "*shape"], *, key: PRNGKeyArray) -> Float[Array, "*shape"]:
        return jax.random.bernoulli(key, jax.nn.sigmoid(z)).astype(z.dtype)

    def fisher_factor(self, z: Float[Array, "*shape"]) -> DiagonalFactor:
        """S = diag(√(p(1−p))), r = c."""
        return DiagonalFactor(_deviation(z).ravel())

    def thin_fisher_factor(self, z: Float[Array, "*shape"]) -> DiagonalFactor:
        return self.fisher_factor(z)

    def fisher_coefficients(self, z: Float[Array, "*shape"], y: _Target) -> Coefficients:
        """ρ = (p − y)/√(p(1−p)): −√((1−p)/p) for y = 1, √(p/(1−p)) for y = 0."""
        residual = jax.nn.sigmoid(z) - self._target(z, y)
        return Coefficients((residual / _deviation(z)).ravel(), bounded=False)

    def kl(self, z: Float[Array, "*shape"], z2: Float[Array, "*shape"]) -> Scalar:
        # A sum over the two outcomes. The shorter formula, a difference of two softplus terms,
        # cancels for large logits.
        one = jax.nn.sigmoid(z) * (jax.nn.log_sigmoid(z) - jax.nn.log_sigmoid(z2))
        zero = jax.nn.sigmoid(-z) * (jax.nn.log_sigmoid(-z) - jax.nn.log_sigmoid(-z2))
        return jnp.sum(one + zero)

    def squared_hellinger(self, z: Float[Array, "*shape"], z2: Float[Array, "*shape"]) -> Scalar:
        ones = (jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(z2)) / 2
        zeros = (jax.nn.log_sigmoid(-z) + jax.nn.log_sigmoid(-z2)) / 2
        return -jnp.expm1(jnp.sum(jnp.logaddexp(ones, zeros)))

    def _target(self, z: Float[Array, "*shape"], y: _Target) -> Float[Array, "*shape"]:
        """`y` in the dtype of `z`, NaN where `y` is outside the domain."""
        y = target_like(self, z, y)
        return jnp.where(_valid(y), y, jnp.nan)


def _valid(y: Float[Array, "*shape"]) -> Bool[Array, "*shape"]:
    return (y >= 0) & (y <= 1)


def _deviation(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """√(p(1−p)) from log σ(z) and log σ(−z): for large z, p rounds to 1 and 1−p would be 0."""
    return jnp.exp((jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(-z)) / 2)
