"""Parts of a batch of equal size, one after the other, of which one is held at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree, Shaped

from .._devices import evenly, everywhere, shared
from .._trees import widened


@dataclass(frozen=True)
class Parts:
    """How the examples of every term fall into parts.

    Every part has examples of every term, in proportion to their numbers, and as many as devices
    can share out evenly. The last parts may not be full: they then begin earlier, with examples
    that were in a part before and do not count again.

    - `sizes`: n_t, the examples of each term.
    - `most`: how many of one term a part may have.
    """

    sizes: tuple[int, ...]
    most: int

    @property
    def count(self) -> int:
        """How many parts there are."""
        return max(-(-n // self.size(n)) for n in self.sizes)

    def size(self, n: int) -> int:
        """How many of n examples are in a part."""
        fewest = max(-(-size // self.most) for size in self.sizes)
        return evenly(-(-n // fewest), n)

    def cut(
        self, of_terms: Sequence[PyTree], part: Int[Array, ""]
    ) -> list[tuple[PyTree, Bool[Array, " _size"]]]:
        """Of every term the arrays [n, ...] of a part's examples, and which of these count."""
        found = []
        for n, of_term in zip(self.sizes, of_terms, strict=True):
            size = self.size(n)
            start = jnp.minimum(part * size, n - size)
            arrays, others = eqx.partition(of_term, eqx.is_array)
            some = jtu.tree_map(
                # Of several devices each has a share of every part.
                lambda leaf, start=start, size=size: shared(
                    jax.lax.dynamic_slice_in_dim(everywhere(leaf), start, size)
                ),
                arrays,
            )
            counts = start + jnp.arange(size, dtype=part.dtype) >= part * size
            found.append((eqx.combine(some, others), counts))
        return found

    def join(self, of_parts: Sequence[Shaped[Array, "parts _size ..."]]) -> list[Array]:
        """Of every term the arrays [n, ...] of all examples, from those of the parts."""
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
        """The sum of the first things that `fn` makes of each part, and all second ones, stacked.

        Half precision is added up in single. What is in between is not kept for a derivative, but
        made anew.
        """
        of_part = jax.checkpoint(fn, prevent_cse=False)  # in a loop nothing is to be prevented
        shapes, _ = jax.eval_shape(of_part, jnp.zeros((), jnp.int32))

        def add(total: PyTree[Array], part: Int[Array, ""]) -> tuple[PyTree[Array], PyTree[Array]]:
            summand, other = of_part(part)
            return jtu.tree_map(jnp.add, total, widened(summand)), other

        zeros = widened(jtu.tree_map(lambda s: jnp.zeros(s.shape, s.dtype), shapes))
        total, others = jax.lax.scan(add, zeros, jnp.arange(self.count, dtype=jnp.int32))
        return jtu.tree_map(lambda leaf, s: leaf.astype(s.dtype), total, shapes), others
