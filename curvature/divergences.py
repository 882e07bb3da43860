"""Divergences ρ(z, z') between the outputs of one example, for `Divergence(rho)`.

Any function of two outputs is allowed if it is zero for equal outputs and has its minimum there.
This module has the common ones.
"""

import abc
import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from .likelihoods import AbstractLikelihood, AbstractLoss


class AbstractOfLikelihood(eqx.Module):
    """A divergence between the two distributions that a likelihood defines for two outputs.

    If `likelihood` is None, the divergence uses the likelihood of each term.
    """

    likelihood: eqx.AbstractVar[AbstractLikelihood | None]

    @abc.abstractmethod
    def __call__(self, z: Float[Array, "*shape"], z2: Float[Array, "*shape"]) -> Scalar:
        """The divergence from `z` to `z2`."""

    def of(self, likelihood: AbstractLoss) -> "AbstractOfLikelihood":
        """The divergence for a term with `likelihood`."""
        if self.likelihood is not None:
            return self
        if not isinstance(likelihood, AbstractLikelihood):
            raise ValueError(
                f"`{type(self).__name__}()` needs an `AbstractLikelihood` in every term, got "
                f"`{type(likelihood).__name__}`. Write a function `rho(z, z2)` for this loss."
            )
        return dataclasses.replace(self, likelihood=likelihood)


class KL(AbstractOfLikelihood):
    """ρ(z, z') = KL(p(· | z) ‖ p(· | z')); its curvature is the exact Fisher."""

    likelihood: AbstractLikelihood | None = None

    def __call__(self, z: Float[Array, "*shape"], z2: Float[Array, "*shape"]) -> Scalar:
        return _require(self.likelihood).kl(z, z2)


class SquaredHellinger(AbstractOfLikelihood):
    """ρ(z, z') = 1 − ∫√(p(t|z) p(t|z')) dt; its curvature is a quarter of the exact Fisher."""

    likelihood: AbstractLikelihood | None = None

    def __call__(self, z: Float[Array, "*shape"], z2: Float[Array, "*shape"]) -> Scalar:
        return _require(self.likelihood).squared_hellinger(z, z2)


class SquaredEuclidean(eqx.Module):
    """ρ(z, z') = ½‖z − z'‖²; its curvature is JᵀJ/n, the pullback of the Euclidean metric."""

    def __call__(self, z: Float[Array, "*shape"], z2: Float[Array, "*shape"]) -> Scalar:
        return jnp.sum((z - z2) ** 2) / 2


def bind(
    rho: Callable[[Array, Array], Scalar], likelihood: AbstractLoss
) -> Callable[[Array, Array], Scalar]:
    """`rho` between two outputs of a term with `likelihood`."""
    return rho.of(likelihood) if isinstance(rho, AbstractOfLikelihood) else rho


def _require(likelihood: AbstractLikelihood | None) -> AbstractLikelihood:
    if likelihood is None:
        raise ValueError(
            "A divergence needs a likelihood, got none. Pass one, or use the divergence in "
            "`Divergence(rho)`, which takes the likelihood of each term."
        )
    return likelihood
