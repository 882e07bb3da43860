from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.lax.linalg import triangular_solve
from jaxtyping import Array, Float, Scalar

from ..._devices import by_rows_and_columns
from ...rows import LowerBlocks, factorise
from .._solved import Solved, solved_by_product
from ._base import AbstractBlock, AbstractBlockMap
from .layouts import Joined

_NO_DERIVATIVE = (
    'A step of `KFAC(damping="factored")` has no derivative in the weights or in λ, because it '
    'does not solve (C + λI)d = g exactly. Use `damping="exact"` for the derivative in λ, or '
    "`BlockDiagonal(of)` for the derivative in the weights."
)


class FactoredBlock(AbstractBlock):
    """G ⊗ A on one layer, X ↦ G X A, with *factored* damping.

        (G ⊗ A + λI)⁻¹ ≈ (G + √λ/π I)⁻¹ ⊗ (A + π√λ I)⁻¹,    π² = (tr A/in) / (tr G/out)

    (Martens and Grosse 2015, section 6.3, with the trace norm.) The right side is the exact inverse
    of G ⊗ A + λI + π√λ G ⊗ I + √λ/π I ⊗ A, so a solve leaves a residual. Two Cholesky factors cost
    a tenth of the eigenvectors that the exact inverse needs.

    - `left`: G, out × out; `right`: A, in × in.
    """

    left: LowerBlocks
    right: LowerBlocks
    layer: Joined = eqx.field(static=True)

    @property
    def kind(self) -> str:
        return "Kronecker factors"

    def mv(self, arrays: list[Array]) -> list[Array]:
        matrix = self.layer.join(arrays)
        return self.layer.split(self.left.matrix() @ matrix @ self.right.matrix())

    def diagonal(self) -> list[Array]:
        return self.layer.split(jnp.outer(self.left.diagonal(), self.right.diagonal()))

    def inverse(self, damping: Scalar) -> AbstractBlockMap:
        left, right, damping = _without_derivative((self.left, self.right, damping))
        of_left, of_right = jnp.mean(left.diagonal()), jnp.mean(right.diagonal())
        # If a trace is zero, π = 1: the quotient would be 0, inf or NaN.
        # Each root by itself, because the quotient may overflow.
        given = (of_left > 0) & (of_right > 0)
        pi = jnp.where(given, jnp.sqrt(of_right) / jnp.sqrt(of_left), 1)
        root = jnp.sqrt(damping.astype(pi.dtype))
        return FactoredInverse(
            factorise(left, root / pi, left.norm()).lower,
            factorise(right, root * pi, right.norm()).lower,
            self.layer,
        )

    def solve(self, arrays: list[Array], damping: Scalar) -> Solved:
        return KeptInverse(self, self.inverse(damping)).solve(arrays, damping)


class FactoredInverse(AbstractBlockMap):
    """X ↦ (K Kᵀ)⁻¹ X (L Lᵀ)⁻¹, by substitution.

    - `left`: K, out × out; `right`: L, in × in; lower triangular.
    """

    left: Float[Array, "out out"]
    right: Float[Array, "in in"]
    layer: Joined = eqx.field(static=True)

    def mv(self, arrays: list[Array]) -> list[Array]:
        factors, x = (self.left, self.right), self.layer.join(arrays)
        return self.layer.split(by_rows_and_columns(_over_rows, _over_columns, factors, x))


# Our arrays are row-major and LAPACK's are column-major: passing the transposes avoids copies.

_Factors: TypeAlias = tuple[Float[Array, "out out"], Float[Array, "in in"]]


def _over_rows(factors: _Factors, x: Float[Array, "rows in"]) -> Float[Array, "rows in"]:
    """X (L Lᵀ)⁻¹."""
    right = factors[1].T
    return triangular_solve(right, triangular_solve(right, x), transpose_a=True)


def _over_columns(factors: _Factors, x: Float[Array, "out columns"]) -> Float[Array, "out columns"]:
    """(K Kᵀ)⁻¹ X."""
    left = factors[0].T
    x = triangular_solve(left, x, left_side=True, transpose_a=True)
    return triangular_solve(left, x, left_side=True)


class KeptInverse(AbstractBlock):
    """A block with a given damped inverse, which may come from another step with another λ.

    The metric and the residual of a solve are those of the block itself, like its products.
    """

    block: AbstractBlock
    kept: AbstractBlockMap

    @property
    def kind(self) -> str:
        return self.block.kind

    def mv(self, arrays: list[Array]) -> list[Array]:
        return self.block.mv(arrays)

    def diagonal(self) -> list[Array]:
        return self.block.diagonal()

    def inverse(self, damping: Scalar) -> AbstractBlockMap:
        del damping
        return self.kept

    def solve(self, arrays: list[Array], damping: Scalar) -> Solved:
        return solved_by_product(self.block.mv, damping, arrays, self.kept.mv(arrays))


@jax.custom_jvp
def _without_derivative(x: Any) -> Any:
    return x


@_without_derivative.defjvp
def _raise_no_derivative(primals: Any, tangents: Any) -> Any:
    del primals, tangents
    raise ValueError(_NO_DERIVATIVE)
