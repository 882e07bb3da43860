"""The inputs and the output cotangents of every use of a weight."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from .graph import Node, Operands
from .lookups import Lookup
from .recognition import Layers
from .uses import AbstractMatrixUse, AbstractProduct, Use


@dataclass(frozen=True)
class Captured:
    """What one use of a weight contributes to the rows of all examples.

    - `use`: the use, with the operation that takes the weight.
    - `operands`: the other arguments of the operation, [n, ...], or [n, L, ...] inside a `scan`.
    - `deltas`: the cotangents of the operation's result for the columns of S, [r, n, (L,) ...].
    - `image`: the cotangent of the operation's result for one more cotangent of the outputs,
      [n, (L,) ...], or None.
    """

    use: Use
    operands: list[Any]
    deltas: Float[Array, "r n ..."]
    image: Float[Array, "n ..."] | None

    def inputs(self) -> Float[Array, "n _slices positions in"]:
        """The vectors that the matrix is multiplied by.

        The axis of slices holds the slices of the `scan`, and for each slice the groups of a
        convolution.
        """
        assert isinstance(self.use, AbstractProduct)
        return self._per_slice(self.use.inputs, self.operands)

    def tokens(self) -> Int[Array, "n _slices positions"]:
        """The numbers of the columns that a lookup takes, see `Lookup.tokens`."""
        assert isinstance(self.use, Lookup)
        return self._per_slice(self.use.tokens, self.operands)

    def cotangents(self) -> Float[Array, "r n _slices positions out"]:
        """The cotangents of the matrix's products with the inputs, for the columns of S."""
        return jax.vmap(lambda of_column: self._per_slice(self._matrix.cotangents, of_column))(
            self.deltas
        )

    def image_cotangents(self) -> Float[Array, "n _slices positions out"] | None:
        """The same as `cotangents`, for `image`; None if there is no image."""
        if self.image is None:
            return None
        return self._per_slice(self._matrix.cotangents, self.image)

    def rows(self, weight: Array) -> Float[Array, "r n p"]:
        """The weight's part of the rows, ravelled like the weight."""
        of_weight = self.use.rows
        if self.use.length is not None:  # every slice has rows of its own
            of_weight = jax.vmap(of_weight, in_axes=(0, 1, 0), out_axes=1)
        of_examples = jax.vmap(of_weight, in_axes=(None, 1, 0), out_axes=1)
        found = of_examples(weight, self.deltas, self.operands)
        return found.reshape(*found.shape[:2], -1)

    def _per_slice(self, fn: Any, of_examples: Any) -> Array:
        """Applies `fn`, whose result has a leading axis of groups, to every example and slice."""
        if self.use.length is None:
            return jax.vmap(fn)(of_examples)
        made = jax.vmap(jax.vmap(fn))(of_examples)
        return made.reshape(len(made), -1, *made.shape[3:])

    @property
    def _matrix(self) -> AbstractMatrixUse:
        assert isinstance(self.use, AbstractMatrixUse)
        return self.use


def capture(
    layers: Layers,
    params: PyTree[Array],
    examples: PyTree[Array],
    closed_over: Sequence[Any],
    columns: Float[Array, "r n *shape"],
    image: Float[Array, "n *shape"] | None,
    wanted: Sequence[int],
) -> dict[int, list[Captured]]:
    """The captures of the wanted weights, by one forward and r (+ 1) backward passes.

    **Arguments:** `examples`, [n, ...]; `closed_over`, the arrays that the computation closes over;
    `columns`, r cotangents of the outputs; `image`, one more cotangent of the outputs, or None;
    `wanted`, the numbers of the weights. All uses of these weights must be recognised.
    """
    uses = {j: found for j in wanted if (found := layers.uses[j])}
    nodes = list(dict.fromkeys(use.node for found in uses.values() for use in found))
    if not nodes:
        return {j: [] for j in wanted}
    lengths = {use.node: use.length for found in uses.values() for use in found}
    # The position of the weight among the operation's arguments; −1 if there are several positions.
    positions: dict[Node, set[int]] = {}
    for found in uses.values():
        for use in found:
            positions.setdefault(use.node, set()).add(use.position)
    own = {node: min(of_node) if len(of_node) == 1 else -1 for node, of_node in positions.items()}

    def tapped(taps: list[Array], example: Any) -> tuple[Array, list[Any]]:
        at = dict(zip(nodes, taps, strict=True))
        z, operands = layers.traced.tapped(params, example, closed_over, at)
        # The weight is left out, since `vmap` would copy it for every example.
        return z, [
            [None if i == own[node] else x for i, x in enumerate(operands[node])] for node in nodes
        ]

    n = columns.shape[1]
    zeros = [_zeros(node, lengths[node], n) for node in nodes]
    # XLA removes the sums with zeros. This forward pass is then the same as the linearisation's,
    # and XLA computes it once.
    _, pullback, operands = jax.vjp(
        lambda taps: jax.vmap(tapped)(taps, examples), zeros, has_aux=True
    )
    r = len(columns)
    cotangents = columns if image is None else jnp.concatenate([columns, image[None]])
    deltas = dict(zip(nodes, jax.vmap(lambda one: pullback(one)[0])(cotangents)))
    taken: Operands = dict(zip(nodes, operands, strict=True))
    return {
        j: [
            Captured(
                use,
                use.others(taken[use.node]),
                deltas[use.node][:r],
                None if image is None else deltas[use.node][r],
            )
            for use in uses.get(j, ())
        ]
        for j in wanted
    }


def _zeros(node: Node, length: int | None, n: int) -> Array:
    y = node.results[0]
    stacked = () if length is None else (length,)
    return jnp.zeros((n, *stacked, *y.shape), y.dtype)
