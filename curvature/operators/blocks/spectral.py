import equinox as eqx
from jaxtyping import Array, Float, Scalar

from ._base import AbstractBlock
from .joined import Joined, Ravelled


class SpectralBlock(AbstractBlock):
    """U diag(s) Uᵀ on a few weights.

    - `vectors`: U, orthogonal; `values`: s.
    - `layout`: how the weights make one vector.
    """

    vectors: Float[Array, "p p"]
    values: Float[Array, " p"]
    layout: Joined | Ravelled = eqx.field(static=True)

    def mv(self, arrays: list[Array]) -> list[Array]:
        return self._times(self.values, arrays)

    def diagonal(self) -> list[Array]:
        return self._split(self.vectors**2 @ self.values)

    def inverse_mv(self, damping: Scalar, arrays: list[Array]) -> list[Array]:
        return self._times(1 / (self.values + damping.astype(self.values.dtype)), arrays)

    def _times(self, values: Array, arrays: list[Array]) -> list[Array]:
        flat = self.layout.join(arrays).ravel()
        return self._split(self.vectors @ (values * (self.vectors.T @ flat)))

    def _split(self, flat: Array) -> list[Array]:
        return self.layout.split(flat.reshape(self.layout.shape))
