import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._devices import on_every_device
from .width import block_width

# The most block columns of a matrix that is given. A program for more takes long to compile.
_FEW_BLOCKS = 6
# The most block columns of a second moment. Three save a third of the work by symmetry. More would
# save a little more, but their products are smaller and so slower.
_MOMENT_BLOCKS = 3


class LowerBlocks(eqx.Module):
    """A symmetric matrix, as block columns that start on the diagonal.

    - `columns`: column j holds the rows from the diagonal down, [m − offset_j, width_j].
    """

    columns: tuple[Float[Array, "_rows _width"], ...]

    @staticmethod
    def of(matrix: Float[Array, "m m"]) -> "LowerBlocks":
        """A few block columns of a symmetric matrix."""
        width = _width(len(matrix), _FEW_BLOCKS)
        starts = range(0, len(matrix), width)
        return LowerBlocks(tuple(matrix[i:, i : i + width] for i in starts))

    @staticmethod
    def moment(x: Float[Array, "n m"], y: Float[Array, "n m"]) -> "LowerBlocks":
        """The matrix Xᵀ Y, which must be symmetric: Y is X with each row scaled by a weight."""
        width = _width(x.shape[1], _MOMENT_BLOCKS)
        starts = range(0, x.shape[1], width)
        return LowerBlocks(tuple(x[:, i:].T @ y[:, i : i + width] for i in starts))

    def matrix(self) -> Float[Array, "m m"]:
        """The whole matrix."""
        lower = self.lower()
        return jnp.tril(lower) + jnp.tril(lower, -1).T

    def lower(self) -> Float[Array, "m m"]:
        """The matrix on and below its diagonal; entries above the diagonal have no meaning."""
        columns, above = [], 0
        for column in self.columns:
            columns.append(jnp.pad(column, ((above, 0), (0, 0))))
            above += column.shape[1]
        return jnp.concatenate(columns, axis=1)

    @property
    def size(self) -> int:
        """How many rows."""
        return self.columns[0].shape[0]

    def diagonal(self) -> Float[Array, " m"]:
        """The diagonal."""
        return jnp.concatenate([jnp.diagonal(column) for column in self.columns])

    @on_every_device
    def norm(self) -> Float[Array, ""]:
        """The Frobenius norm."""
        squared = jnp.zeros((), self.columns[0].dtype)
        for column in self.columns:
            top = column[: column.shape[1]]
            # The square on the diagonal counts once, the rows below it twice, by symmetry.
            squared += 2 * jnp.vdot(column, column) - jnp.vdot(top, top)
        return jnp.sqrt(squared)

    def shifted(self, damping: Float[Array, ""]) -> "LowerBlocks":
        """The matrix plus λI."""

        def shift(column: Float[Array, "rows width"]) -> Float[Array, "rows width"]:
            eye = jnp.eye(*column.shape, dtype=column.dtype)
            return column + damping * eye

        return LowerBlocks(tuple(shift(column) for column in self.columns))

    @on_every_device
    def symmetric_mv(self, x: Float[Array, "m k"]) -> Float[Array, "m k"]:
        """The product of the symmetric matrix with vectors, each block read once."""
        if x.shape[1] == 1:
            # Pad to two vectors. XLA would fuse the product with one vector into the computation
            # of the matrix, and recompute the matrix in a slow loop.
            return self.symmetric_mv(jnp.pad(x, ((0, 0), (0, 1))))[:, :1]
        below, above, offset = jnp.zeros_like(x), [], 0
        for column in self.columns:
            width = column.shape[1]
            end = offset + width
            below = below.at[offset:].add(column @ x[offset:end])
            # Not `column.T @ x`, which takes ten times as long on a CPU.
            above.append(x[end:].T @ column[width:])
            offset = end
        return below + jnp.concatenate(above, axis=1).T


def _width(size: int, most_blocks: int) -> int:
    return max(block_width(size), -(-size // most_blocks))
