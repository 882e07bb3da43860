import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from .._solved import Solved, solved_by_product
from ._base import AbstractBlock, AbstractBlockMap
from .layouts import Joined

# The relative residual of an inner solve, in units of roundoff, and its most products.
_TOLERANCE, _MOST_PRODUCTS = 10.0, 200


class ProductsBlock(AbstractBlock):
    """Σ_t G_t ⊗ A_t on one layer, X ↦ Σ_t G_t X A_t: a Kronecker product per term.

    The damped sum has no inverse in closed form, so it is solved by conjugate gradients.

    - `left`: G_t, out × out, positive semidefinite; `right`: A_t, in × in, or the diagonals of the
      A_t if the A_t are diagonal.
    - `near`: one Kronecker product near the sum; its damped inverse preconditions the solve.
    """

    left: Float[Array, "terms out out"]
    right: Float[Array, "terms *in"]
    near: AbstractBlock
    layer: Joined = eqx.field(static=True)

    @property
    def kind(self) -> str:
        return "sums of Kronecker products"

    def mv(self, arrays: list[Array]) -> list[Array]:
        matrix = self.layer.join(arrays)
        axes = "tij,jk,tk->ik" if self.right.ndim == 2 else "tij,jk,tkl->il"
        return self.layer.split(jnp.einsum(axes, self.left, matrix, self.right))

    def diagonal(self) -> list[Array]:
        left, right = jnp.diagonal(self.left, axis1=1, axis2=2), self.right
        if right.ndim == 3:
            right = jnp.diagonal(right, axis1=1, axis2=2)
        return self.layer.split(left.T @ right)

    def inverse(self, damping: Scalar) -> AbstractBlockMap:
        return _ByIteration(self, self.near.inverse(damping), damping)

    def solve(self, arrays: list[Array], damping: Scalar) -> Solved:
        d = self.inverse(damping).mv(arrays)
        return solved_by_product(self.mv, damping, arrays, d)


class _ByIteration(AbstractBlockMap):
    """(C + λI)⁻¹ by conjugate gradients, to a residual of ten units of roundoff."""

    block: ProductsBlock
    near: AbstractBlockMap
    damping: Scalar

    def mv(self, arrays: list[Array]) -> list[Array]:
        def product(arrays: list[Array]) -> list[Array]:
            pairs = zip(self.block.mv(arrays), arrays, strict=True)
            return [Cv + self.damping.astype(v.dtype) * v for Cv, v in pairs]

        tolerance = _TOLERANCE * float(jnp.finfo(self.block.left.dtype).eps)
        found, _ = jax.scipy.sparse.linalg.cg(
            product, arrays, tol=tolerance, maxiter=_MOST_PRODUCTS, M=self.near.mv
        )
        return found
