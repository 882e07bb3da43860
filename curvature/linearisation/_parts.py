"""Divides a batch into parts of equal size; only one part is held in memory at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree, Shaped

from .._devices import replicate, round_up_to_devices, shard
from .._trees import widen


@dataclass(frozen=True)
class Parts:
    """The division of the examples of every term into parts.

    Every part has examples of every term, in proportion to their numbers. The number of examples in
    a part is a multiple of the number of devices, if the term has so many.

    All parts have the same size, so that one program computes them. If the size does not divide n,
    the last parts start earlier. They then repeat examples of an earlier part, which do not count
    again.

    - `sizes`: n_t, the number of examples of each term.
    - `most`: the most examples of one term in a part.
    """

    sizes: tuple[int, ...]
    most: int

    @property
    def count(self) -> int:
        """The number of parts."""
        return max(-(-n // self.size(n)) for n in self.sizes)

    def size(self, n: int) -> int:
        """The number of examples in a part, for a term with n examples."""
        fewest = max(-(-size // self.most) for size in self.sizes)
        return round_up_to_devices(-(-n // fewest), n)

    def cut(
        self, of_terms: Sequence[PyTree], part: Int[Array, ""]
    ) -> list[tuple[PyTree, Bool[Array, " _size"]]]:
        """The arrays of the part's examples for every term, and which of the examples count.

        **Arguments:** `of_terms`, arrays [n, ...] per term; `part`, the index of the part.
        """
        found = []
        for n, of_term in zip(self.sizes, of_terms, strict=True):
            size = self.size(n)
            start = jnp.minimum(part * size, n - size)
            arrays, others = eqx.partition(of_term, eqx.is_array)
            some = jtu.tree_map(
                # Gathered, sliced and sharded again: every device gets a share of each part.
                lambda leaf, start=start, size=size: shard(
                    jax.lax.dynamic_slice_in_dim(replicate(leaf), start, size)
                ),
                arrays,
            )
            counts = start + jnp.arange(size, dtype=part.dtype) >= part * size
            found.append((eqx.combine(some, others), counts))
        return found

    def join(self, of_parts: Sequence[Shaped[Array, "parts _size ..."]]) -> list[Array]:
        """The inverse of `cut`: the arrays [n, ...] of all examples, from those of the parts."""
        joined = []
        for n, stacked in zip(self.sizes, of_parts, strict=True):
            size = self.size(n)
            part, place = np.divmod(np.arange(n), size)
            place += np.maximum(part * size - (n - size), 0)
            joined.append(stacked.reshape(-1, *stacked.shape[2:])[part * size + place])
        return joined

    def sum(
        self, fn: Callable[[Int[Array, ""]], tuple[PyTree[Array], PyTree[Array]]]
    ) -> tuple[PyTree[Array], PyTree[Array]]:
        """Sums the first result of `fn` over the parts, and stacks the second results.

        Half-precision results are summed in float32. `jax.checkpoint` limits the memory of a
        derivative: the intermediate values of a part are computed again in the backward pass.
        """
        # `prevent_cse=False` is safe inside a `scan`, where XLA does not merge the two passes.
        of_part = jax.checkpoint(fn, prevent_cse=False)
        shapes, _ = jax.eval_shape(of_part, jnp.zeros((), jnp.int32))

        def add(total: PyTree[Array], part: Int[Array, ""]) -> tuple[PyTree[Array], PyTree[Array]]:
            summand, other = of_part(part)
            return jtu.tree_map(jnp.add, total, widen(summand)), other

        zeros = widen(jtu.tree_map(lambda s: jnp.zeros(s.shape, s.dtype), shapes))
        total, others = jax.lax.scan(add, zeros, jnp.arange(self.count, dtype=jnp.int32))
        return jtu.tree_map(lambda leaf, s: leaf.astype(s.dtype), total, shapes), others
