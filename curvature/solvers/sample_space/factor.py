from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Scalar

from ...rows import LowerBlocks

# Squared pivots below this many units of roundoff of the largest diagonal entry are noise.
_PIVOT = 16.0
# By this many units of roundoff, times √m, the eigenvalues of a Gram matrix are off.
_NOISE = 2.0


class Factor(eqx.Module):
    """L with L Lᵀ = K + λ'I, for a Gram matrix K.

    - `lower`: L; `inverses`: those of the triangles on its diagonal.
    - `damping`: λ', which is λ, or more where K + λI is numerically singular.
    - `by_eigenvalues`: whether L was made from an eigendecomposition.
    """

    lower: LowerBlocks
    inverses: tuple[Float[Array, "_width _width"], ...]
    damping: Scalar
    by_eigenvalues: Bool[Array, ""]

    def solve(self, b: Float[Array, "m k"]) -> Float[Array, "m k"]:
        """(K + λ'I)⁻¹ b for several right-hand sides, by forward and backward substitution."""
        parts, rest = [], b
        for column, inverse in zip(self.lower.columns, self.inverses, strict=True):
            width = len(inverse)
            part = inverse @ rest[:width]
            rest = rest[width:] - column[width:] @ part
            parts.append(part)
        solved = jnp.zeros_like(b[:0])
        blocks = zip(self.lower.columns, self.inverses, parts, strict=True)
        for column, inverse, part in reversed(list(blocks)):
            part = inverse.T @ (part - column[len(inverse) :].T @ solved)
            solved = jnp.concatenate([part, solved])
        return solved


def factorise(gram: LowerBlocks, damping: Scalar) -> Factor:
    """Factorise K + λI: by Cholesky's method, or by eigenvalues where that is not to be trusted.

    Where a pivot drowns in the rounding error of K, the factor is that of K⁺ + λ'I, with the
    eigenvalues of K clipped to zero from below and λ' = λ + 2√m·eps·‖K‖, the size of their
    error: what a factor of this precision can say about K, and safely positive definite.
    """
    lower, inverses = _cholesky(gram.shifted(damping))
    eps = float(jnp.finfo(damping.dtype).eps)
    largest = jnp.max(gram.diagonal()) + damping
    sound = jnp.all(lower.diagonal() ** 2 > _PIVOT * eps * largest)

    def by_eigenvalues() -> tuple[LowerBlocks, Any, Scalar]:
        values, vectors = jnp.linalg.eigh(gram.as_symmetric_matrix())
        shifted = damping + _NOISE * eps * gram.size**0.5 * jnp.max(jnp.abs(values))
        root = jnp.sqrt(jnp.maximum(values, 0) + shifted)
        upper = jnp.linalg.qr(root[:, None] * vectors.T, mode="r")
        lower = gram.like(upper.T * jnp.sign(jnp.diagonal(upper))[None, :])
        tops = [column[: column.shape[1]] for column in lower.columns]
        return lower, tuple(map(_inverse, tops)), shifted

    factor = jax.lax.cond(sound, lambda: (lower, inverses, damping), by_eigenvalues)
    return Factor(*factor, by_eigenvalues=~sound)


def _cholesky(matrix: LowerBlocks) -> tuple[LowerBlocks, tuple[Float[Array, "_w _w"], ...]]:
    """Cholesky's factor, block column by block column, NaN where there is none.

    LAPACK's own runs at a fraction of the speed of matrix products: here nearly all work is one,
    a block column less the product of all that is left of it. Panels are divided by the inverse
    of their small triangle, which is again a product; the residual stays within a few units of
    roundoff times the condition number of such a triangle (Higham 2002, "Accuracy and stability
    of numerical algorithms", section 13.3).

    **Returns:** the factor and the inverses of the triangles on its diagonal.
    """
    done: list[Float[Array, "_rows _width"]] = []
    inverses: list[Float[Array, "_w _w"]] = []
    for column in matrix.columns:
        rows, width = column.shape
        if done:
            left = jnp.concatenate([d[len(d) - rows :] for d in done], axis=1)
            column = column - left @ left[:width].T
        # LAPACK reads by columns what is held by rows. The transpose of the symmetric square is
        # the same matrix, but it needs no copy, and no other layout of the whole block column.
        top = jax.lax.linalg.cholesky(column[:width].T, symmetrize_input=False)
        inverses.append(_inverse(top))
        below = column[width:] @ inverses[-1].T
        done.append(jnp.concatenate([top, below]) if rows > width else top)
    return LowerBlocks(tuple(done)), tuple(inverses)


def _inverse(lower: Float[Array, "w w"]) -> Float[Array, "w w"]:
    eye = jnp.eye(len(lower), dtype=lower.dtype)
    return jax.lax.linalg.triangular_solve(lower, eye, left_side=True, lower=True)
