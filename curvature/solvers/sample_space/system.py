"""A solve (C + μI) d = b as a linear system in sample space, and its iterative refinement."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, Scalar

from ..._trees import add_scaled, vdot
from ...rows import Factor, LowerBlocks, Rows

# The most products of a refinement, including the one that checks the last correction.
_MOST_TURNS = 30


class System(eqx.Module):
    """(C + μI) d = b with C = AᵀA, K = AAᵀ and b = Aᵀρ + e, where e is not formed.

        d = Aᵀw + s·e,    (K + μI) w = ρ − s·A e,    s = 1/μ

    For μ = 0, d = Aᵀw with K w = ρ + K⁻¹A e, the least-squares solution of least norm.

    - `rows`, `gram`, `factor`: A, K, and the factor of K + μ'I.
    - `damping`: μ.
    - `norm`: ‖K‖_F = ‖C‖_F, an upper bound of ‖C‖; it is close to ‖C‖ if few rows dominate.
    - `rho`: ρ; for μ = 0, ρ + K⁻¹A e.
    - `projected`: A e; `squared`: ‖e‖². Both are None if e is known to be zero.
    """

    rows: Rows
    gram: LowerBlocks
    factor: Factor
    damping: Scalar
    norm: Scalar
    rho: Float[Array, " m"]
    projected: Float[Array, " m"] | None
    squared: Scalar | None

    @property
    def share(self) -> Scalar:
        """The factor s of e: 1/μ, or 0 where μ = 0."""
        undamped = self.damping == 0
        return jnp.where(undamped, 0, 1 / jnp.where(undamped, 1, self.damping))

    def weights(self) -> Float[Array, " m"]:
        """The solution w, computed with the factor, without refinement."""
        if self.projected is None:
            return self.factor.solve(self.rho)
        return self.factor.solve(self.rho - self.share * self.projected)

    def image(self, K_weights: Float[Array, " m"]) -> Float[Array, " m"]:
        """A d, computed from the product K w."""
        return K_weights if self.projected is None else K_weights + self.share * self.projected


class Refined(eqx.Module):
    """A solution d with w and A d, after `turns` products; `left` is ρ − A d − μw."""

    direction: PyTree[Array]
    weights: Float[Array, " m"]
    image: Float[Array, " m"]
    left: Float[Array, " m"]
    squared_norm: Scalar
    turns: Int[Array, ""]
    ratio: Scalar  # the residual divided by eps (‖C‖ + μ)‖d‖
    done: Bool[Array, ""]


def refine(
    system: System,
    direction: PyTree[Array],
    weights: Float[Array, " m"],
    image: Float[Array, " m"],
    squared_norm: Scalar,
    *,
    enabled: Bool[Array, ""],
) -> Refined:
    """Iterative refinement: d ← d + Aᵀ(K + μ'I)⁻¹(ρ − A d − μw), with the true product A d.

    The residual is b − (C + μI)d = Aᵀ(ρ − A d − μw), up to the rounding of e. Each turn costs one
    product with C. The loop ends when the residual is at most that of a backward-stable solve,
    eps (‖C‖ + μ)‖d‖, or when the residual no longer decreases. The loop runs only if `enabled`.
    """
    eps = float(jnp.finfo(system.norm.dtype).eps)
    most = jnp.where(system.damping > 0, _MOST_TURNS, 2)

    def turn(carry: Refined) -> Refined:
        image = system.rows.mv(carry.direction)
        left = system.rho - image - system.damping * carry.weights
        squared_norm = vdot(carry.direction, carry.direction).astype(left.dtype)
        unit = eps * (system.norm + system.damping) * jnp.sqrt(squared_norm)
        ratio = row_norm(system.gram, left) / unit
        turns = carry.turns + 1
        done = (ratio <= 1) | (turns >= most) | ((ratio >= carry.ratio) & (turns > 2))
        correction = jnp.where(done, 0, system.factor.solve(left))
        step = system.rows.transpose_mv(correction)
        return Refined(
            direction=add_scaled(carry.direction, jnp.ones_like(unit), step),
            weights=carry.weights + correction,
            image=image,
            left=left,
            squared_norm=squared_norm,
            turns=turns,
            ratio=ratio,
            done=done,
        )

    start = Refined(
        direction=direction,
        weights=weights,
        image=image,
        left=system.rho - image - system.damping * weights,
        squared_norm=squared_norm,
        turns=jnp.zeros((), jnp.int32),
        ratio=jnp.full_like(system.norm, jnp.inf),
        done=~enabled,
    )
    return jax.lax.while_loop(lambda carry: ~carry.done, turn, start)


def row_norm(gram: LowerBlocks, u: Float[Array, " m"]) -> Scalar:
    """‖Aᵀu‖ = √(uᵀKu); 0 if rounding makes uᵀKu negative."""
    squared = jnp.vdot(u, gram.symmetric_mv(u[:, None])[:, 0])
    return jnp.sqrt(jnp.where(squared < 0, 0, squared))
