import equinox as eqx
from jaxtyping import Array, Float, Scalar

from .._solved import Solved, solved_by_eigenvalues
from ._base import AbstractBlock
from .layouts import Joined


class OutputBasisBlock(AbstractBlock):
    """(U ⊗ I) diag(s) (U ⊗ I)ᵀ on one layer: X ↦ U (s ∘ (Uᵀ X)).

    With s = g aᵀ it is G ⊗ diag(a), for G of eigenvectors U and eigenvalues g: a Kronecker product
    where the inputs are unit vectors, as those of a table are. Nothing of in × in is made.

    - `left`: U, out × out; `values`: s, out × in.
    """

    left: Float[Array, "out out"]
    values: Float[Array, "out in"]
    layer: Joined = eqx.field(static=True)

    @property
    def kind(self) -> str:
        return "Kronecker factors with token counts"

    def mv(self, arrays: list[Array]) -> list[Array]:
        rotated = self.left.T @ self.layer.join(arrays)
        return self.layer.split(self.left @ (self.values * rotated))

    def solve(self, arrays: list[Array], damping: Scalar) -> Solved:
        rotated = self.left.T @ self.layer.join(arrays)
        rotated = rotated / (self.values + damping.astype(self.values.dtype))
        d = self.layer.split(self.left @ rotated)
        return solved_by_eigenvalues(d, rotated, self.values, damping)

    def diagonal(self) -> list[Array]:
        return self.layer.split(self.left**2 @ self.values)

    def inverse(self, damping: Scalar) -> AbstractBlock:
        inverted = 1 / (self.values + damping.astype(self.values.dtype))
        return OutputBasisBlock(self.left, inverted, self.layer)
