"""The solution for the gradient of the loss, by numbers of the sample space alone."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from ...rows import LowerBlocks
from .factor import Factor


class Numbers(eqx.Module):
    """What is known of a solution d of (C + λI) d = g.

    - `slope`: dᵀg; `metric`: dᵀCd; `squared_norm`: ‖d‖²; `vector_norm`: ‖g‖.
    - `residual`: an estimate, mostly from above, of ‖g − (C + λI)d‖.
    """

    slope: Scalar
    metric: Scalar
    squared_norm: Scalar
    vector_norm: Scalar
    residual: Scalar


class Solution(eqx.Module):
    """A solution d = share·v + Aᵀ weights, not yet formed, and its numbers.

    - `amplification`: by how much the terms of d are larger than d. The rounding error of d, and
      so its residual, is about so many times that of a dense solve.
    """

    share: Scalar | None
    weights: Float[Array, " m"]
    numbers: Numbers
    amplification: Scalar


def covered(
    gram: LowerBlocks, factor: Factor, rho: Float[Array, " m"], damping: Scalar
) -> Solution:
    """The solution d = Aᵀ(K + λI)⁻¹ρ for g = Aᵀρ, K = AAᵀ: nothing is divided by λ."""
    zero = jnp.zeros_like(damping)
    weights = factor.solve(rho[:, None])[:, 0]
    return _solution(gram, rho, jnp.zeros_like(rho), zero, zero, damping, None, weights)


def partly_covered(
    gram: LowerBlocks,
    factor: Factor,
    rho: Float[Array, " m"],
    projected: Float[Array, " m"],
    squared: Scalar,
    terms: Scalar,
    damping: Scalar,
) -> Solution:
    """The solution d = Aᵀ(K + λI)⁻¹ρ + (v − Aᵀ(K + λI)⁻¹A v)/λ for g = Aᵀρ + v.

    For λ = 0 it is d = Aᵀ(K⁻¹ρ + K⁻²A v) = C⁺g, the least-squares solution of least norm.

    **Arguments:** `projected`, A v; `squared`, ‖v‖²; `terms`, the sum of the norms of what v is the
    sum of, which may cancel in it.
    """
    undamped = damping == 0
    both = factor.solve(jnp.stack([rho, projected], axis=1))
    direct, u = both[:, 0], both[:, 1:]
    share = jnp.where(undamped, 0, 1 / jnp.where(undamped, 1, damping))
    weights = direct + jax.lax.cond(
        undamped, lambda: factor.solve(u)[:, 0], lambda: -share * u[:, 0]
    )
    return _solution(gram, rho, projected, squared, terms, damping, share, weights)


def _solution(
    gram: LowerBlocks,
    rho: Float[Array, " m"],
    h: Float[Array, " m"],  # A v
    squared: Scalar,  # ‖v‖²
    terms: Scalar,
    damping: Scalar,
    share: Scalar | None,
    weights: Float[Array, " m"],
) -> Solution:
    products = gram.symmetric_mv(jnp.stack([rho, weights], axis=1))
    K_rho, K_weights = products[:, 0], products[:, 1]
    s = jnp.zeros_like(damping) if share is None else share
    image = s * h + K_weights  # A d
    squared_norm = s**2 * squared + 2 * s * jnp.vdot(weights, h) + jnp.vdot(weights, K_weights)
    vector_norm = _root(jnp.vdot(rho, K_rho) + 2 * jnp.vdot(rho, h) + squared)
    operator_norm = jnp.fmax(_quotient(K_rho, rho), _quotient(K_weights, weights))
    operator_norm = jnp.fmax(operator_norm, jnp.max(gram.diagonal()))
    norm_A = jnp.sqrt(operator_norm)
    size = norm_A * jnp.linalg.norm(weights) + s * terms
    left = rho - image - damping * weights  # g − (C + λI)d = Aᵀ left + (1 − λ·share) v
    residual = norm_A * jnp.linalg.norm(left)
    if share is not None:
        residual = jax.lax.cond(
            damping > 0, lambda: residual, lambda: _least_squares(gram, left, h, squared)
        )
    rounding = float(jnp.finfo(size.dtype).eps) * (operator_norm + damping) * size
    return Solution(
        share=share,
        weights=weights,
        numbers=Numbers(
            slope=s * (jnp.vdot(rho, h) + squared) + jnp.vdot(weights, K_rho + h),
            metric=jnp.vdot(image, image),
            squared_norm=jnp.where(squared_norm < 0, 0, squared_norm),
            vector_norm=vector_norm,
            residual=residual + rounding,
        ),
        amplification=size / _root(squared_norm),
    )


def _least_squares(
    gram: LowerBlocks, left: Float[Array, " m"], h: Float[Array, " m"], squared: Scalar
) -> Scalar:
    """‖Aᵀ left + v‖."""
    product = gram.symmetric_mv(left[:, None])[:, 0]
    return _root(jnp.vdot(left, product) + 2 * jnp.vdot(left, h) + squared)


def _quotient(product: Float[Array, " m"], vector: Float[Array, " m"]) -> Scalar:
    """‖K x‖/‖x‖ ≤ ‖K‖; NaN for x = 0."""
    return jnp.linalg.norm(product) / jnp.linalg.norm(vector)


def _root(squared: Any) -> Scalar:
    """The root of a square whose rounding error may have made it negative; NaN stays."""
    return jnp.sqrt(jnp.where(squared < 0, 0, squared))
