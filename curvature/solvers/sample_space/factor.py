import equinox as eqx
import jax
import jax.numpy as jnp
from jax.lax import dynamic_update_slice
from jax.lax.linalg import cholesky, triangular_solve
from jaxtyping import Array, Bool, Float, Scalar

from ...rows import LowerBlocks

# Squared pivots below this many units of roundoff of the largest diagonal entry are noise.
_PIVOT = 16.0
# By this many units of roundoff, times √m, the eigenvalues of a Gram matrix are off.
_NOISE = 2.0


class Factor(eqx.Module):
    """L with L Lᵀ = K + λ'I, for a Gram matrix K.

    - `lower`: L, lower triangular.
    - `damping`: λ', which is λ, or more where K + λI is numerically singular.
    - `by_eigenvalues`: whether L was made from an eigendecomposition.
    """

    lower: Float[Array, "m m"]
    damping: Scalar
    by_eigenvalues: Bool[Array, ""]

    def solve(self, b: Float[Array, "m k"]) -> Float[Array, "m k"]:
        """(K + λ'I)⁻¹ b for several right-hand sides, by forward and backward substitution."""
        # LAPACK reads by columns what is held by rows: its L is our Lᵀ, without a copy.
        upper = self.lower.T
        forward = triangular_solve(upper, b, left_side=True, lower=False, transpose_a=True)
        return triangular_solve(upper, forward, left_side=True, lower=False)


def factorise(gram: LowerBlocks, damping: Scalar) -> Factor:
    """Factorise K + λI: by Cholesky's method, or by eigenvalues where that is not to be trusted.

    Where a pivot drowns in the rounding error of K, the factor is that of K⁺ + λ'I, with the
    eigenvalues of K clipped to zero from below and λ' = λ + 2√m·eps·‖K‖, the size of their
    error: what a factor of this precision can say about K, and safely positive definite.
    """
    lower = _cholesky(gram.shifted(damping))
    eps = float(jnp.finfo(damping.dtype).eps)
    largest = jnp.max(gram.diagonal()) + damping
    sound = jnp.all(jnp.diagonal(lower) ** 2 > _PIVOT * eps * largest)

    def by_eigenvalues() -> tuple[Float[Array, "m m"], Scalar]:
        values, vectors = jnp.linalg.eigh(gram.as_symmetric_matrix())
        shifted = damping + _NOISE * eps * gram.size**0.5 * jnp.max(jnp.abs(values))
        root = jnp.sqrt(jnp.maximum(values, 0) + shifted)
        upper = jnp.linalg.qr(root[:, None] * vectors.T, mode="r")
        # Held by rows as Cholesky's factor is, or that one would be copied.
        return jnp.tril(upper.T * jnp.sign(jnp.diagonal(upper))[None, :]), shifted

    factor = jax.lax.cond(sound, lambda: (lower, damping), by_eigenvalues)
    return Factor(*factor, by_eigenvalues=~sound)


def _cholesky(matrix: LowerBlocks) -> Float[Array, "m m"]:
    """Cholesky's factor, block column by block column, NaN where there is none.

    LAPACK's own runs at a fraction of the speed of matrix products: here nearly all work is one,
    a block column less the product of all that is left of it. Panels are divided by the inverse
    of their small triangle, which is again a product; the residual stays within a few units of
    roundoff times the condition number of such a triangle (Higham 2002, "Accuracy and stability
    of numerical algorithms", section 13.3).
    """
    factor = jnp.zeros((matrix.size, matrix.size), matrix.columns[0].dtype)
    start = 0
    for column in matrix.columns:
        width = column.shape[1]
        if start:
            left = factor[start:, :start]
            column = column - left @ left[:width].T
        # The transpose of the symmetric square is the same matrix, but LAPACK needs no copy of it,
        # and no other layout of the whole block column.
        top = cholesky(column[:width].T, symmetrize_input=False)
        eye = jnp.eye(width, dtype=top.dtype)
        inverse = triangular_solve(top, eye, left_side=True, lower=True)
        done = jnp.concatenate([top, column[width:] @ inverse.T])
        factor = dynamic_update_slice(factor, done, (start, start))
        start += width
    return factor
