"""Conversions between the weights of a block and one array."""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float


@dataclass(frozen=True)
class Joined:
    """A layer y = W a + b as the matrix [W, b], out × (in + 1), or W alone, out × in.

    - `shapes`: the shape of W (out × in, `out × channels × …` for a convolution, in × out if
      `transposed`), and the shape of b if there is a bias.
    """

    shapes: tuple[tuple[int, ...], ...]
    transposed: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape [out, in] of the matrix; [out, in + 1] with a bias."""
        first, *rest = self.shapes[0]
        size = math.prod(rest)
        out, width = (size, first) if self.transposed else (first, size)
        return out, width + len(self.shapes) - 1

    def join(self, arrays: list[Array]) -> Float[Array, "out in"]:
        """[W, b] of a weight and its bias."""
        matrix = arrays[0].T if self.transposed else arrays[0].reshape(len(arrays[0]), -1)
        if len(arrays) == 1:
            return matrix
        return jnp.concatenate([matrix, arrays[1].reshape(-1, 1).astype(matrix.dtype)], axis=1)

    def split(self, matrix: Float[Array, "out in"]) -> list[Array]:
        """The inverse of `join`."""
        bias = [] if len(self.shapes) == 1 else [matrix[:, -1].reshape(self.shapes[1])]
        weight = matrix if len(self.shapes) == 1 else matrix[:, :-1]
        return [(weight.T if self.transposed else weight).reshape(self.shapes[0]), *bias]


@dataclass(frozen=True)
class Ravelled:
    """Weights as one vector, ravelled one after another.

    - `shapes`: the shapes of the weights.
    """

    shapes: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape [p] of the vector."""
        return (sum(map(math.prod, self.shapes)),)

    def join(self, arrays: list[Array]) -> Float[Array, " p"]:
        """All arrays, ravelled."""
        return jnp.concatenate([jnp.ravel(array) for array in arrays])

    def split(self, flat: Float[Array, " p"]) -> list[Array]:
        """The inverse of `join`."""
        arrays, start = [], 0
        for shape in self.shapes:
            size = math.prod(shape)
            arrays.append(flat[start : start + size].reshape(shape))
            start += size
        return arrays
