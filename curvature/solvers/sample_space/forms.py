"""The two forms of the solution for the gradient of the loss, by numbers of the sample space."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from ...rows import LowerBlocks
from .factor import Factor


class Numbers(eqx.Module):
    """What is known of a solution d of (C + λI) d = g.

    - `slope`: dᵀg; `metric`: dᵀCd; `squared_norm`: ‖d‖²; `vector_norm`: ‖g‖.
    - `residual`: a bound on ‖g − (C + λI)d‖.
    """

    slope: Scalar
    metric: Scalar
    squared_norm: Scalar
    vector_norm: Scalar
    residual: Scalar


class Solution(eqx.Module):
    """D = share·g + Aᵀ weights, not yet formed, and its numbers.

    - `amplification`: by how much the terms of d are larger than d. The rounding error of d, and
      so its residual, is about so many times that of a dense solve.
    """

    share: Scalar
    weights: Float[Array, " m"]
    numbers: Numbers
    amplification: Scalar


class System(eqx.Module):
    """(K + λI) u = b for a Gram matrix K = AAᵀ, solved, with products for what is asked next.

    - `operator_norm`: ‖K‖, from below.
    """

    b: Float[Array, " m"]
    u: Float[Array, " m"]
    product_b: Float[Array, " m"]  # K b
    product_u: Float[Array, " m"]  # K u
    damping: Scalar
    operator_norm: Scalar


def solved(
    gram: LowerBlocks, factor: Factor, vectors: list[Float[Array, " m"]], damping: Scalar
) -> list[System]:
    """The systems of several right-hand sides, by one substitution and one product."""
    b = jnp.stack(vectors, axis=1)
    u = factor.solve(b)
    products = gram.symmetric_mv(jnp.concatenate([b, u], axis=1))
    count = len(vectors)
    quotients = _norm(products[:, :count]) / _norm(b)
    at_least = jnp.max(jnp.where(jnp.isfinite(quotients), quotients, 0))
    operator_norm = jnp.maximum(at_least, jnp.max(gram.diagonal()))
    return [
        System(b[:, i], u[:, i], products[:, i], products[:, count + i], damping, operator_norm)
        for i in range(count)
    ]


def by_coefficients(system: System) -> Solution:
    """D = Aᵀ(K + λI)⁻¹ρ, where g = Aᵀρ and ρ is `system.b`: nothing is divided by λ."""
    rho, u, norm_A = system.b, system.u, jnp.sqrt(system.operator_norm)
    squared_norm = _positive(jnp.vdot(u, system.product_u))
    left = rho - system.product_u - system.damping * u
    size = norm_A * _norm(u)
    rounding = _eps(u) * (system.operator_norm + system.damping) * size
    return Solution(
        share=jnp.zeros_like(norm_A),
        weights=u,
        numbers=Numbers(
            slope=jnp.vdot(u, system.product_b),
            metric=jnp.vdot(system.product_u, system.product_u),
            squared_norm=squared_norm,
            vector_norm=jnp.sqrt(_positive(jnp.vdot(rho, system.product_b))),
            residual=norm_A * _norm(left) + rounding,
        ),
        amplification=size / jnp.sqrt(squared_norm),
    )


def by_difference(system: System, squared: Scalar) -> Solution:
    """D = (g − Aᵀ(K + λI)⁻¹A g)/λ for λ > 0, where A g is `system.b` and ‖g‖² is `squared`."""
    h, u, damping = system.b, system.u, system.damping
    norm_A, vector_norm = jnp.sqrt(system.operator_norm), jnp.sqrt(_positive(squared))
    image = (h - system.product_u) / damping  # A d
    overlap = jnp.vdot(u, h)
    squared_norm = _positive(squared - 2 * overlap + jnp.vdot(u, system.product_u)) / damping**2
    left = h - system.product_u - damping * u
    size = (norm_A * _norm(u) + vector_norm) / damping
    rounding = _eps(u) * (system.operator_norm + damping) * size
    return Solution(
        share=1 / damping,
        weights=-u / damping,
        numbers=Numbers(
            slope=(squared - overlap) / damping,
            metric=jnp.vdot(image, image),
            squared_norm=squared_norm,
            vector_norm=vector_norm,
            residual=norm_A * _norm(left) / damping + rounding,
        ),
        amplification=size / jnp.sqrt(squared_norm),
    )


def least_squares(system: System, squared: Scalar, gram: LowerBlocks, factor: Factor) -> Solution:
    """D = Aᵀ K⁻² A g = C⁺g, where there is no damping and K is `gram`.

    It is the least-squares solution of least norm: only a g in the range of C is reached.
    """
    h, weights = system.b, factor.solve(system.u[:, None])
    image = gram.symmetric_mv(weights)  # A d
    again = gram.symmetric_mv(image)[:, 0]
    weights, image = weights[:, 0], image[:, 0]
    missed = squared - 2 * jnp.vdot(h, image) + jnp.vdot(image, again)
    return Solution(
        share=jnp.zeros_like(squared),
        weights=weights,
        numbers=Numbers(
            slope=jnp.vdot(weights, h),
            metric=jnp.vdot(image, image),
            squared_norm=_positive(jnp.vdot(weights, image)),
            vector_norm=jnp.sqrt(_positive(squared)),
            residual=jnp.sqrt(_positive(missed)),
        ),
        amplification=jnp.ones_like(squared),
    )


def better(first: Solution, second: Solution) -> Solution:
    """The one whose terms cancel less; one that overflowed never is."""
    chosen = ~(second.amplification < first.amplification)
    chosen &= jnp.isfinite(first.amplification)
    return jax.tree.map(lambda a, b: jnp.where(chosen, a, b), first, second)


def _positive(squared: Scalar) -> Scalar:
    """A square whose rounding error may have made it negative; NaN stays."""
    return jnp.where(squared < 0, 0, squared)


def _norm(x: Float[Array, "m ..."]) -> Array:
    return jnp.linalg.norm(x, axis=0)


def _eps(x: Array) -> float:
    return float(jnp.finfo(x.dtype).eps)
