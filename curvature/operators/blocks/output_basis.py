import equinox as eqx
from jaxtyping import Array, Float, Scalar

from .._solved import Solved, solved_by_eigenvalues
from ._base import AbstractBlock
from .layouts import Joined


class OutputBasisBlock(AbstractBlock):
    """(U ⊗ I) diag(s) (U ⊗ I)ᵀ on one layer: X ↦ U (s ∘ (Uᵀ X)).

    If G has the eigenvectors U and the eigenvalues g, and s = g aᵀ, the block is G ⊗ diag(a). This
    is the Kronecker product of a table, whose inputs are unit vectors. No in × in matrix is formed.

    - `left`: U, out × out; `values`: s, out × in.
    """

    left: Float[Array, "out out"]
    values: Float[Array, "out in"]
    layer: Joined = eqx.field(static=True)

    @property
    def kind(self) -> str:
        return "Kronecker factors with token counts"

    def mv(self, arrays: list[Array]) -> list[Array]:
        return self._rotate_back(self.values * self._rotate(arrays))

    def diagonal(self) -> list[Array]:
        return self.layer.split(self.left**2 @ self.values)

    def inverse(self, damping: Scalar) -> AbstractBlock:
        inverted = 1 / (self.values + damping.astype(self.values.dtype))
        return OutputBasisBlock(self.left, inverted, self.layer)

    def solve(self, arrays: list[Array], damping: Scalar) -> Solved:
        rotated = self._rotate(arrays) / (self.values + damping.astype(self.values.dtype))
        return solved_by_eigenvalues(self._rotate_back(rotated), rotated, self.values, damping)

    def _rotate(self, arrays: list[Array]) -> Float[Array, "out in"]:
        return self.left.T @ self.layer.join(arrays)

    def _rotate_back(self, rotated: Float[Array, "out in"]) -> list[Array]:
        return self.layer.split(self.left @ rotated)
