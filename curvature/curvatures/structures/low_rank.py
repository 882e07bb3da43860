from typing import NoReturn

import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from ..._checks import positive_int
from ..._precision import full_precision
from ..._trees import work_dtype
from ...linearisation import AbstractLinearisation
from ...operators import LowRankOperator
from .._base import AbstractPullback, require_key
from ._base import AbstractStructure

# A Gaussian matrix with at least this many rows per column has a condition number of at most about
# 3. Cholesky's method then makes its columns orthonormal to roundoff, in a fraction of the time
# of QR.
_TALL = 4
# How many products with C are computed at a time. Each holds a vector and the tangents of the
# outputs in memory.
_CHUNK = 16

_TOO_LARGE = (
    "`LowRank(rank=...)` must be at most the number of trainable weights, {size:,}, got {found:,}."
)

_NO_DERIVATIVE = (
    "`LowRank` has no derivative in the weights, because eigenvectors have no derivative where "
    "eigenvalues are equal. To differentiate a step, use the curvature without a structure, or "
    "`Diagonal(of)`."
)


class LowRank(AbstractStructure):
    """Nyström's approximation in a random subspace: (CΩ)(ΩᵀCΩ)⁺(CΩ)ᵀ = U diag(s) Uᵀ, of rank r.

    Ω (P × r) has random orthonormal columns. The approximation never exceeds C, and equals C if r
    is at least the rank of C. This is algorithm 2.1 of Frangella, Tropp and Udell 2023, "Randomized
    Nyström preconditioning". The algorithm approximates C + νI with ν = √P ε ‖CΩ‖_F, and subtracts
    ν from the eigenvalues at the end. Without ν, ΩᵀCΩ cannot be factorised if r exceeds the rank
    of C.

    - Costs r products with C and O(P r²) operations, and holds three P × r matrices.
    - There is no average over the steps: each step draws a new subspace, and needs a key.
    - A derivative with respect to the weights raises an error.

    **Arguments:** `of`, any pullback curvature; `rank`, r, at most the number of weights P.
    """

    of: AbstractPullback
    rank: int

    def __check_init__(self):
        positive_int("LowRank(rank=...)", self.rank)

    @full_precision
    def operator(
        self, linearisation: AbstractLinearisation, *, key: PRNGKeyArray | None = None
    ) -> LowRankOperator:
        of_key, test_key = jax.random.split(require_key(self, key, draws="a random subspace"))
        C = self.of.operator(linearisation, key=of_key)
        size, dtype = C.in_size(), work_dtype(linearisation.params)
        if self.rank > size:
            raise ValueError(_TOO_LARGE.format(size=size, found=self.rank))
        test = _orthonormal(jax.random.normal(test_key, (size, self.rank), dtype))
        vectors, values = _nystrom(test, _products(C, test))
        return LowRankOperator(vectors, values, C.in_structure())


def _orthonormal(gaussian: Float[Array, "P r"]) -> Float[Array, "P r"]:
    """An orthonormal basis of the columns of a Gaussian matrix."""
    P, r = gaussian.shape
    if _TALL * r > P:
        return jnp.linalg.qr(gaussian)[0]
    # For GᵀG = L Lᵀ the columns of G L⁻ᵀ are orthonormal.
    L = jnp.linalg.cholesky(gaussian.T @ gaussian)
    return jax.scipy.linalg.solve_triangular(L, gaussian.T, lower=True).T


def _products(C: lx.AbstractLinearOperator, columns: Float[Array, "P r"]) -> Float[Array, "P r"]:
    """The products of C with some columns, a few at a time."""
    zeros = jtu.tree_map(lambda s: jnp.zeros(s.shape, s.dtype), C.in_structure())
    _, unravel = jfu.ravel_pytree(zeros)

    def product(column: Float[Array, " P"]) -> Float[Array, " P"]:
        return jfu.ravel_pytree(C.mv(unravel(column)))[0]

    return jax.lax.map(product, columns.T, batch_size=_CHUNK).T


@jax.custom_jvp
def _nystrom(
    test: Float[Array, "P r"], sketch: Float[Array, "P r"]
) -> tuple[Float[Array, "P r"], Float[Array, " r"]]:
    """U and s from Ω and Y = CΩ."""
    shift = _shift(sketch)
    sketch = sketch + shift * test
    # For ΩᵀY = L Lᵀ and R = Y L⁻ᵀ, the approximation is R Rᵀ.
    L = jnp.linalg.cholesky(test.T @ sketch)
    root = jax.scipy.linalg.solve_triangular(L, sketch.T, lower=True).T
    # QR, then the SVD of the small triangle: LAPACK's SVD of the tall matrix takes longer.
    basis, triangle = jnp.linalg.qr(root)
    vectors, roots, _ = jnp.linalg.svd(triangle)
    return basis @ vectors, jnp.maximum(roots**2 - shift, 0)


@_nystrom.defjvp
def _raise_no_derivative(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> NoReturn:
    raise ValueError(_NO_DERIVATIVE)


def _shift(sketch: Float[Array, "P r"]) -> Scalar:
    """ν = √P ε ‖Y‖_F, but a small positive number if C = 0."""
    info = jnp.finfo(sketch.dtype)
    shift = len(sketch) ** 0.5 * info.eps * jnp.linalg.norm(sketch)
    return jnp.maximum(shift, info.tiny**0.5)
