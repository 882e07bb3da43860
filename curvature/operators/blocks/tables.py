from jaxtyping import Array, Float

from ...rows import TokenRows
from .rows import AbstractBlockRows


class TableRows(AbstractBlockRows):
    """The rows of a table whose columns are looked up; the rows are never formed.

    - `tokens`: the same rows in the transposed shape, [vocabulary, out] instead of [out, in].
    """

    tokens: TokenRows

    def mv(self, array: Float[Array, "out in"]) -> Float[Array, " m"]:
        return self.tokens.mv(array.T).ravel()

    def transpose_mv(self, weights: Float[Array, " m"]) -> Float[Array, "out in"]:
        per_row = weights.reshape(self.tokens.cotangents.shape[:2])
        return self.tokens.transpose_mv(per_row).T

    def gram(self) -> Float[Array, "m m"]:
        k, n = self.tokens.cotangents.shape[:2]
        return self.tokens.products(self.tokens).reshape(k * n, k * n)

    def squares(self) -> Float[Array, "out in"]:
        return self.tokens.squares().T
