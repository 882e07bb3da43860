import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from ._base import AbstractPart, Slab


class StackedPart(AbstractPart):
    """A matrix in slices, those of a `scan` or the groups of a convolution; each slice is a part.

    The shares of the slices are added up by a loop, so that a deep model compiles as fast as a
    shallow one.

    - `slices`: the parts of all slices as one object; its arrays have a leading axis of slices.
    """

    slices: AbstractPart

    def block(self, a: Slab, b: Slab) -> Float[Array, "ra na rb nb"] | None:
        return self._sum(lambda part: part.block(a, b))

    def project(self) -> tuple[tuple[Float[Array, "_r _n"] | None, ...], Scalar]:
        return self._sum(lambda part: part.project())

    def _sum(self, share):
        arrays, static = eqx.partition(self.slices, eqx.is_array)

        def of_slice(arrays):
            return share(eqx.combine(arrays, static))

        first = jax.tree.map(lambda leaf: leaf[0], arrays)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(of_slice, first))

        def add(total, arrays):
            return jax.tree.map(jnp.add, total, of_slice(arrays)), None

        return jax.lax.scan(add, zeros, arrays)[0]
