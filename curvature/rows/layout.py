"""How the rows of each weight are made, decided from shapes alone."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import jax.tree_util as jtu
from jaxtyping import Array

from ..linearisation import Linearisation
from .recognition import AbstractMatrixUse, Unused, Use
from .taps import Tapped

# Rows of up to so many bytes in all are held rather than made anew for every block.
HELD_BYTES = 2**28


class Way(enum.Enum):
    """How the rows of one weight are made."""

    NONE = enum.auto()  # they are zero
    DENSE = enum.auto()
    HELD = enum.auto()
    GENERAL = enum.auto()


@dataclass(frozen=True)
class Layout:
    """The m = Σ_t r_t n_t rows of a linearisation, before anything is computed.

    - `ranks`: r_t, how many columns S has, per term.
    - `taps`: the computation of each term.
    - `ways`: one per weight, in the order of the leaves of the weights.
    """

    linearisation: Linearisation
    ranks: tuple[int, ...]
    taps: tuple[Tapped, ...]
    ways: tuple[Way, ...]

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


def layout_of(linearisation: Linearisation, ranks: Sequence[int]) -> Layout:
    """Looks at the computation of each term and decides, weight by weight."""
    taps = tuple(Tapped(term, linearisation.params) for term in linearisation.terms)
    undecided = Layout(linearisation, tuple(ranks), taps, ())
    return Layout(linearisation, tuple(ranks), taps, _ways(undecided))


def _ways(layout: Layout) -> tuple[Way, ...]:
    """One way per weight, with the rows of small weights held as long as there is room."""
    weights, room = layout.weights, HELD_BYTES
    ways = [Way.GENERAL] * len(weights)
    for j in sorted(range(len(weights)), key=lambda j: weights[j].size):
        found = [use for tap in layout.taps if not isinstance(use := tap.uses[j], Unused)]
        size = layout.size * weights[j].nbytes
        if not found:
            ways[j] = Way.NONE
        elif _is_dense(found):
            ways[j] = Way.DENSE
        elif None not in found and size <= room:
            ways[j] = Way.HELD
            room -= size
    return tuple(ways)


def _is_dense(uses: Sequence[Use | None]) -> bool:
    """Whether every term multiplies one vector per example, from the same side."""
    matrices = [use for use in uses if isinstance(use, AbstractMatrixUse)]
    return (
        len(matrices) == len(uses)
        and all(use.positions == 1 for use in matrices)
        and len({use.transposed for use in matrices}) == 1
    )
