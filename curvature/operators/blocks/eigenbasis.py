import equinox as eqx
from jaxtyping import Array, Float, Scalar

from ._base import AbstractBlock
from .layouts import Joined


class EigenbasisBlock(AbstractBlock):
    """(U ⊗ V) diag(s) (U ⊗ V)ᵀ on one layer: X ↦ U (s ∘ (Uᵀ X V)) Vᵀ.

    With s the products of their eigenvalues it is G ⊗ A, for G and A of the eigenvectors U and V.

    - `left`: U, out × out; `right`: V, in × in, a row and a column more where there is a bias.
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
        rotated = self.left.T @ self.layer.join(arrays) @ self.right
        return self.layer.split(self.left @ (self.values * rotated) @ self.right.T)

    def diagonal(self) -> list[Array]:
        return self.layer.split(self.left**2 @ self.values @ (self.right**2).T)

    def inverse(self, damping: Scalar) -> AbstractBlock:
        inverted = 1 / (self.values + damping.astype(self.values.dtype))
        return EigenbasisBlock(self.left, self.right, inverted, self.layer)
