"""Lookups of columns of a matrix by their numbers."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .graph import Graph, Node
from .uses import AbstractMatrixUse

# How a gather treats a number that is out of range. A lookup in any other mode is not recognised.
_MODES = jax.lax.GatherScatterMode
_CLIP, _DROP = (_MODES.CLIP,), (_MODES.FILL_OR_DROP, _MODES.PROMISE_IN_BOUNDS)


class Lookup(AbstractMatrixUse):
    """y = W e_v, column v of W (or row v of a table that is held as [in, out]): `eqx.nn.Embedding`.

    The inputs are the unit vectors e_v. Their numbers v are called tokens. The unit vectors are
    never formed.
    """

    @property
    def vocabulary(self) -> int:
        """The number of columns."""
        return self.node.shapes[0].shape[_index_axis(self.node)]

    @property
    def transposed(self) -> bool:
        turned = any(view.name == "transpose" for view in self.views)
        return (_index_axis(self.node) == 0) != turned

    @property
    def groups(self) -> int:
        return 1

    @property
    def positions(self) -> int:
        y = self.node.results[0]
        return y.size // y.shape[self.out_axis]

    @property
    def out_axis(self) -> int:
        picked = _index_axis(self.node)
        if self.node.name == "dynamic_slice":
            return 1 - picked
        numbers = self.node.equation.params["dimension_numbers"]
        kept = [axis for axis in range(2) if axis not in numbers.collapsed_slice_dims]
        return numbers.offset_dims[kept.index(1 - picked)]

    def tokens(self, operands: list[Any]) -> Array:
        """The tokens v of one example, as [1, positions]; v = `vocabulary` means y = 0.

        This agrees with the derivative of the operation. For a number out of range, either the
        number is clipped to the range, or y does not depend on the weight.
        """
        picked, last = _index_axis(self.node), self.vocabulary - 1
        if self.node.name == "dynamic_slice":
            return jnp.clip(operands[1 + picked], 0, last).astype(jnp.int32).reshape(1, 1)
        params = self.node.equation.params
        axes, starts = params["dimension_numbers"].start_index_map, operands[1]
        found = starts[..., axes.index(picked)]
        if params["mode"] in _CLIP:
            return jnp.clip(found, 0, last).astype(jnp.int32).reshape(1, -1)
        inside = (found >= 0) & (found <= last)
        for i, axis in enumerate(axes):
            if axis != picked:  # the whole axis is taken: only the start 0 is in range
                inside &= starts[..., i] == 0
        return jnp.where(inside, found, last + 1).astype(jnp.int32).reshape(1, -1)

    def cotangents(self, delta: Array) -> Array:
        return jnp.moveaxis(delta, self.out_axis, -1).reshape(1, -1, delta.shape[self.out_axis])


def lookup(
    views: tuple[Node, ...], node: Node, position: int, graph: Graph, length: int | None
) -> Lookup | None:
    """The use of a matrix by a `gather` or a `dynamic_slice` that takes whole columns or rows."""
    if position != 0 or len(node.shapes[0].shape) != 2 or _find_index_axis(node) is None:
        return None
    if any(index.dtype not in (jnp.int32, jnp.int64) for index in node.shapes[1:]):
        return None
    if node.name == "gather":
        numbers, mode = node.equation.params["dimension_numbers"], node.equation.params["mode"]
        batched = numbers.operand_batching_dims
        if (
            batched
            or mode not in (*_CLIP, *_DROP)
            or _index_axis(node) not in numbers.start_index_map
        ):
            return None
    return Lookup(views, node, position, graph, length)


def _index_axis(node: Node) -> int:
    axis = _find_index_axis(node)
    assert axis is not None
    return axis


def _find_index_axis(node: Node) -> int | None:
    """The axis of which one entry is taken, while the other axis is taken whole; else None."""
    sizes: Sequence[int] = node.equation.params["slice_sizes"]
    shape = node.shapes[0].shape
    axes = (axis for axis in range(2) if sizes[axis] == 1 and sizes[1 - axis] == shape[1 - axis])
    return next(axes, None)
