"""Divergences ρ(z, z') between the outputs of one example, for `Divergence(rho)`.

Any function of two outputs that is smallest (and zero) where they are equal will do; these are
the ones with a name.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from .likelihoods import AbstractLikelihood


class KL(eqx.Module):
    """ρ(z, z') = KL(p(· | z) ‖ p(· | z')); its curvature is the exact Fisher."""

    likelihood: AbstractLikelihood

    def __call__(self, z: Float[Array, "*shape"], z2: Float[Array, "*shape"]) -> Scalar:
        return self.likelihood.kl(z, z2)


class SquaredHellinger(eqx.Module):
    """ρ(z, z') = 1 − ∫√(p(t|z) p(t|z')) dt; its curvature is a quarter of the exact Fisher."""

    likelihood: AbstractLikelihood

    def __call__(self, z: Float[Array, "*shape"], z2: Float[Array, "*shape"]) -> Scalar:
        return self.likelihood.squared_hellinger(z, z2)


class SquaredEuclidean(eqx.Module):
    """ρ(z, z') = ½‖z − z'‖²; its curvature is JᵀJ/n, the pullback of the Euclidean metric."""

    def __call__(self, z: Float[Array, "*shape"], z2: Float[Array, "*shape"]) -> Scalar:
        return jnp.sum((z - z2) ** 2) / 2
