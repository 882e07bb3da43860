import equinox as eqx
from jaxtyping import Array, Float, Scalar

from ..._devices import shard
from .._solved import Solved, solved_by_eigenvalues
from ._base import AbstractBlock
from .layouts import Joined


class EigenbasisBlock(AbstractBlock):
    """(U ⊗ V) diag(s) (U ⊗ V)ᵀ on one layer: X ↦ U (s ∘ (Uᵀ X V)) Vᵀ.

    If U and V are the eigenvectors of G and A, and s the products of the eigenvalues of G and A,
    the block is G ⊗ A.

    - `left`: U, out × out; `right`: V, in × in, with one more row and column for a bias.
    - `values`: s, out × in.
    """

    left: Float[Array, "out out"]
    right: Float[Array, "in in"]
    values: Float[Array, "out in"]
    layer: Joined = eqx.field(static=True)

    @property
    def kind(self) -> str:
        return "Kronecker factors"

    def mv(self, arrays: list[Array]) -> list[Array]:
        return self._rotate_back(self.values * self._rotate(arrays))

    def diagonal(self) -> list[Array]:
        return self.layer.split(self.left**2 @ self.values @ (self.right**2).T)

    def inverse(self, damping: Scalar) -> AbstractBlock:
        inverted = 1 / (self.values + damping.astype(self.values.dtype))
        return EigenbasisBlock(self.left, self.right, inverted, self.layer)

    def solve(self, arrays: list[Array], damping: Scalar) -> Solved:
        rotated = self._rotate(arrays) / (self.values + damping.astype(self.values.dtype))
        return solved_by_eigenvalues(self._rotate_back(rotated), rotated, self.values, damping)

    def _rotate(self, arrays: list[Array]) -> Float[Array, "out in"]:
        return shard(self.left.T @ self.layer.join(arrays) @ self.right)

    def _rotate_back(self, rotated: Float[Array, "out in"]) -> list[Array]:
        # With this order of the products every device computes a share of both: the rows of
        # `rotated` are distributed over the devices, and so are those of `rotated @ right.T`.
        return self.layer.split(self.left @ (rotated @ self.right.T))
