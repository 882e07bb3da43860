"""Which weights make a block of their own, and of what kind."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax.tree_util as jtu

from ...layers import MatrixLayer, Use, matrix_layers, modules_of
from ...linearisation import AbstractLinearisation


@dataclass(frozen=True)
class Group:
    """Weights that share a block.

    - `leaves`: their numbers; `shapes`: those of the weights, or of a slice of them.
    - `length`: L, where they are stacked and each of the L slices has a block; else None.
    """

    leaves: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    length: int | None

    @property
    def size(self) -> int:
        """How many numbers a block is for."""
        return sum(math.prod(shape) for shape in self.shapes)


@dataclass(frozen=True)
class Partition:
    """All trainable weights.

    - `layers`: the matrices, with their biases.
    - `dense`: groups small enough for a matrix; `elementwise`: the others, for their diagonal.
    """

    layers: tuple[MatrixLayer, ...]
    dense: tuple[Group, ...]
    elementwise: tuple[Group, ...]


def partition_of(linearisation: AbstractLinearisation, max_block: int) -> Partition:
    """The layers; of the rest one group per module, dense where it has at most `max_block`."""
    layers = matrix_layers([term.layers for term in linearisation.terms])
    taken = {j for layer in layers for j in layer.leaves}
    rest = groups_of(linearisation, without=taken)
    dense = tuple(group for group in rest if group.size <= max_block)
    elementwise = tuple(group for group in rest if group.size > max_block)
    return Partition(layers, dense, elementwise)


def groups_of(
    linearisation: AbstractLinearisation, *, without: set[int] | frozenset[int] = frozenset()
) -> list[Group]:
    """The weights by the module that they are in, each slice of stacked ones by itself."""
    shapes = [leaf.shape for leaf in jtu.tree_leaves(linearisation.params)]
    groups = []
    for module in modules_of(linearisation.params):
        of_length: dict[int | None, list[int]] = {}
        for j in module:
            if j not in without:
                uses = [term.layers.uses[j] for term in linearisation.terms]
                of_length.setdefault(_length(uses), []).append(j)
        for length, leaves in of_length.items():
            own = tuple(shapes[j] if length is None else shapes[j][1:] for j in leaves)
            groups.append(Group(tuple(leaves), own, length))
    return groups


def _length(uses: Sequence[Sequence[Use] | None]) -> int | None:
    """L, where every use of a weight is inside a `scan` over its L slices."""
    lengths = {use.length for of_term in uses if of_term is not None for use in of_term}
    if None in uses or len(lengths) != 1:
        return None
    return lengths.pop()
