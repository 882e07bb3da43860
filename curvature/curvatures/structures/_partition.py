"""The partition of the weights into blocks, and the kind of each block."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax.tree_util as jtu

from ...layers import MatrixLayer, Use, matrix_layers, modules_of
from ...linearisation import AbstractLinearisation


@dataclass(frozen=True)
class Group:
    """Weights that share a block.

    - `leaves`: the numbers of the weights, which are indices into the leaves of all weights.
    - `shapes`: the shapes of the weights, or of one slice of each.
    - `length`: L, if the weights are stacked and each of the L slices has its own block; else None.
    """

    leaves: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    length: int | None

    @property
    def size(self) -> int:
        """The number of rows of a block's matrix."""
        return sum(math.prod(shape) for shape in self.shapes)


@dataclass(frozen=True)
class Partition:
    """A partition of all trainable weights.

    - `layers`: the matrices, with their biases.
    - `dense`: the groups that are small enough for a dense block.
    - `elementwise`: the other groups, of which only the diagonal is kept.
    """

    layers: tuple[MatrixLayer, ...]
    dense: tuple[Group, ...]
    elementwise: tuple[Group, ...]


def partition_of(linearisation: AbstractLinearisation, max_block: int) -> Partition:
    """The layers, and the groups of all other weights; see `groups_of`.

    A group is dense if its block is for at most `max_block` weights, else elementwise.
    """
    layers = matrix_layers([term.layers for term in linearisation.terms])
    taken = {j for layer in layers for j in layer.leaves}
    rest = groups_of(linearisation, without=taken)
    dense = tuple(group for group in rest if group.size <= max_block)
    elementwise = tuple(group for group in rest if group.size > max_block)
    return Partition(layers, dense, elementwise)


def groups_of(
    linearisation: AbstractLinearisation, *, without: set[int] | frozenset[int] = frozenset()
) -> list[Group]:
    """The weights outside `without`, grouped by module and by the number L of slices."""
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
    """L, if every use of a weight is inside a `scan` over its L slices; else None."""
    lengths = {use.length for of_term in uses if of_term is not None for use in of_term}
    if None in uses or len(lengths) != 1:
        return None
    return lengths.pop()
