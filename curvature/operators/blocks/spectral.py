import equinox as eqx
from jaxtyping import Array, Float, Scalar

from .._solved import Solved, solved_by_eigenvalues
from ._base import AbstractBlock
from .layouts import Joined, Ravelled


class SpectralBlock(AbstractBlock):
    """U diag(s) Uᵀ on a few weights.

    - `vectors`: U, orthogonal; `values`: s.
    - `layout`: how the weights are joined into one array, which is then ravelled.
    """

    vectors: Float[Array, "p p"]
    values: Float[Array, " p"]
    layout: Joined | Ravelled = eqx.field(static=True)

    @property
    def kind(self) -> str:
        return "exact blocks"

    def mv(self, arrays: list[Array]) -> list[Array]:
        flat = self.layout.join(arrays).ravel()
        return self._split(self.vectors @ (self.values * (self.vectors.T @ flat)))

    def diagonal(self) -> list[Array]:
        return self._split(self.vectors**2 @ self.values)

    def inverse(self, damping: Scalar) -> AbstractBlock:
        inverted = 1 / (self.values + damping.astype(self.values.dtype))
        return SpectralBlock(self.vectors, inverted, self.layout)

    def solve(self, arrays: list[Array], damping: Scalar) -> Solved:
        flat = self.layout.join(arrays).ravel()
        rotated = (self.vectors.T @ flat) / (self.values + damping.astype(self.values.dtype))
        d = self._split(self.vectors @ rotated)
        return solved_by_eigenvalues(d, rotated, self.values, damping)

    def _split(self, flat: Array) -> list[Array]:
        return self.layout.split(flat.reshape(self.layout.shape))
