import equinox as eqx
import jax
import jax.numpy as jnp
from jax.lax import dynamic_update_slice
from jax.lax.linalg import cholesky, triangular_solve
from jaxtyping import Array, Float, Scalar

from .._devices import on_every_device
from .lower_blocks import LowerBlocks

# Squared pivots below this many units of roundoff of the largest diagonal entry are noise.
_PIVOT = 16.0
# The error of the eigenvalues of a Gram matrix K is this many units of roundoff times √m‖K‖.
_NOISE = 2.0
# The shift grows by the first number until the pivots are above the noise. The second number is
# the most attempts.
_GROWTH, _MOST_ATTEMPTS = 4.0, 8


class Factor(eqx.Module):
    """L with L Lᵀ = K + λ'I, for a Gram matrix K.

    - `lower`: L, lower triangular.
    - `damping`: λ'; equal to λ, or larger if K + λI is numerically singular.
    """

    lower: Float[Array, "m m"]
    damping: Scalar

    @on_every_device
    def solve(self, b: Float[Array, " m"]) -> Float[Array, " m"]:
        """(K + λ'I)⁻¹ b by forward and backward substitution."""
        # Our array is row-major and LAPACK's is column-major: passing Lᵀ avoids a copy.
        upper = self.lower.T
        forward = triangular_solve(upper, b[:, None], left_side=True, lower=False, transpose_a=True)
        return triangular_solve(upper, forward, left_side=True, lower=False)[:, 0]


@on_every_device
def factorise(gram: LowerBlocks, damping: Scalar, norm: Scalar) -> Factor:
    """Factorises K + λI by Cholesky's method, with a larger λ' if this is needed.

    Rounding errors of K change its eigenvalues by about 2√m·eps·‖K‖ (in the Frobenius norm). The
    first attempt uses λ, and succeeds if K + λI is well conditioned. An attempt fails if there is
    no factor, or if a squared pivot is at most 16 eps times the largest diagonal entry. The second
    attempt uses λ' = λ + 2√m·eps·‖K‖. Every further attempt makes the shift λ' − λ four times as
    large. There are at most eight attempts.

    **Arguments:** `norm`, ‖K‖ in the Frobenius norm.
    """
    eps = float(jnp.finfo(damping.dtype).eps)
    largest = jnp.max(gram.diagonal()) + damping
    noise = _NOISE * eps * gram.size**0.5 * norm

    def attempt(
        carry: tuple[Scalar, Factor, Scalar, Array],
    ) -> tuple[Scalar, Factor, Scalar, Array]:
        count, _, shift, _ = carry
        lower = _cholesky(gram.shifted(damping + shift))
        sound = jnp.all(jnp.diagonal(lower) ** 2 > _PIVOT * eps * largest)
        grown = jnp.maximum(_GROWTH * shift, noise)
        # If K has NaN or inf on its diagonal, no shift helps: the loop ends.
        return count + 1, Factor(lower, damping + shift), grown, sound | ~jnp.isfinite(largest)

    none = Factor(jnp.zeros((gram.size, gram.size), damping.dtype), damping)
    start = jnp.zeros((), jnp.int32), none, jnp.zeros_like(damping), jnp.asarray(False)
    _, factor, _, _ = jax.lax.while_loop(
        lambda carry: ~carry[3] & (carry[0] < _MOST_ATTEMPTS), attempt, start
    )
    return factor


def _cholesky(matrix: LowerBlocks) -> Float[Array, "m m"]:
    """The Cholesky factor, computed block column by block column; NaN if there is none.

    LAPACK's routine runs at a fraction of the speed of matrix products. Here nearly all the work is
    matrix products: from each block column the product of the factor's columns to its left is
    subtracted. The rows below the diagonal are then multiplied by the inverse of the small triangle
    on the diagonal, which is again a matrix product. The residual stays within a few units of
    roundoff times the condition number of such a triangle (Higham 2002, "Accuracy and stability of
    numerical algorithms", section 13.3).
    """
    if len(matrix.columns) == 1:
        return cholesky(matrix.columns[0].T, symmetrize_input=False)
    factor = jnp.zeros((matrix.size, matrix.size), matrix.columns[0].dtype)
    start = 0
    for column in matrix.columns:
        width = column.shape[1]
        if start:
            left = factor[start:, :start]
            column = column - left @ left[:width].T
        # The square on the diagonal is symmetric, so its transpose is the same matrix. LAPACK is
        # column-major: passing the transpose avoids a copy, and a change of layout of the whole
        # block column.
        top = cholesky(column[:width].T, symmetrize_input=False)
        eye = jnp.eye(width, dtype=top.dtype)
        inverse = triangular_solve(top, eye, left_side=True, lower=True)
        done = jnp.concatenate([top, column[width:] @ inverse.T])
        factor = dynamic_update_slice(factor, done, (start, start))
        start += width
    return factor
