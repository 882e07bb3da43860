"""How the rows of each weight are computed; this is decided from shapes alone."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import jax.tree_util as jtu
from jaxtyping import Array

from ..layers import AbstractMatrixUse, Use, matrix_layers
from ..linearisation import AbstractLinearisation

# At most this many bytes of rows are held in memory. Other rows are recomputed for every block.
HELD_BYTES = 2**28


class Way(enum.Enum):
    """How the rows of one weight are computed."""

    NONE = enum.auto()  # they are zero
    DENSE = enum.auto()  # from inputs and cotangents of a matrix
    TOKENS = enum.auto()  # from the tokens that are looked up in a table, and cotangents
    BIAS = enum.auto()  # together with the rows of the matrix of the same layer
    HELD = enum.auto()  # from the weight's uses, and held in memory
    GENERAL = enum.auto()  # by automatic differentiation


@dataclass(frozen=True)
class Layout:
    """How to compute the m = Σ_t r_t n_t rows of a linearisation; nothing is computed yet.

    - `ranks`: r_t, the number of columns of S, per term.
    - `ways`: one per weight, in the order of the leaves of the weights.
    - `partners`: maps the number of a bias to the number of the matrix of the same layer. The rows
      of both are computed together.
    """

    linearisation: AbstractLinearisation
    ranks: tuple[int, ...]
    ways: tuple[Way, ...]
    partners: dict[int, int]

    @property
    def weights(self) -> list[Array]:
        """The trainable weights, as leaves."""
        return jtu.tree_leaves(self.linearisation.params)

    @property
    def per_term(self) -> list[int]:
        """How many rows each term has, r_t n_t."""
        return [r * t.size for r, t in zip(self.ranks, self.linearisation.terms, strict=True)]

    @property
    def size(self) -> int:
        """How many rows there are, m."""
        return sum(self.per_term)

    def uses(self, j: int) -> list[tuple[Use, ...] | None]:
        """The uses of weight j, per term."""
        return [term.layers.uses[j] for term in self.linearisation.terms]


def layout_of(linearisation: AbstractLinearisation, ranks: Sequence[int]) -> Layout:
    """Chooses a `Way` for each weight; small weights are the first whose rows are held."""
    undecided = Layout(linearisation, tuple(ranks), (), {})
    weights, room = undecided.weights, HELD_BYTES
    ways = [Way.GENERAL] * len(weights)
    for j in range(len(weights)):
        if weights[j].size == 0 or all(uses == () for uses in undecided.uses(j)):
            ways[j] = Way.NONE
    partners = {}
    tables = {}  # the number of a table → the fraction of nonzero entries in a row
    for layer in matrix_layers([term.layers for term in linearisation.terms]):
        positions = max(map(_positions, undecided.uses(layer.weight)))
        if layer.vocabulary is not None:
            if positions < layer.vocabulary:
                tables[layer.weight] = positions / layer.vocabulary
        elif positions == 1:
            ways[layer.weight] = Way.DENSE
            if layer.bias is not None:
                ways[layer.bias] = Way.BIAS
                partners[layer.bias] = layer.weight
    for j in sorted(range(len(weights)), key=lambda j: weights[j].size):
        size = undecided.size * weights[j].nbytes * tables.get(j, 1)
        if ways[j] is Way.GENERAL and None not in undecided.uses(j) and size <= room:
            ways[j] = Way.TOKENS if j in tables else Way.HELD
            room -= size
    return Layout(linearisation, tuple(ranks), tuple(ways), partners)


def _positions(uses: Sequence[Use] | None) -> int:
    """How many vectors per example a matrix is multiplied by."""
    return sum(use.positions for use in uses or () if isinstance(use, AbstractMatrixUse))
