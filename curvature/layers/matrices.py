from collections.abc import Sequence
from dataclasses import dataclass

from .lookups import Lookup
from .recognition import Layers
from .uses import AbstractMatrixUse


@dataclass(frozen=True)
class MatrixLayer:
    """A matrix that every term either multiplies vectors by, from one side, or does not use.

    Either the vectors are computed, or all of them are unit vectors, so that columns are looked up.

    - `weight`: the number of the matrix; `bias`: the number of its bias, or None.
    - `transposed`: whether the matrix is stored as [in, out].
    - `stack`: how many slices a `scan` takes of the matrix, each of which is a layer; None if no
      `scan` takes slices.
    - `groups`: how many groups a convolution has, each of which is a layer, too; else 1.
    - `vocabulary`: the number of columns to look up; None if the vectors are computed.
    """

    weight: int
    bias: int | None
    transposed: bool
    stack: int | None
    groups: int
    vocabulary: int | None

    @property
    def length(self) -> int | None:
        """L, the number of slices that are layers of their own; None if there is one layer."""
        if self.groups == 1:
            return self.stack
        return self.groups * (1 if self.stack is None else self.stack)

    @property
    def leaves(self) -> tuple[int, ...]:
        """The numbers of the layer's weights."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def slice_shapes(self, shapes: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
        """The shapes of one slice of the weight and of the bias, from the shapes of the whole.

        The bias of a group is ravelled, since in its own shape the outputs need not be the first
        axis.
        """
        weight, *bias = [tuple(shape if self.stack is None else shape[1:]) for shape in shapes]
        if self.groups == 1:
            return weight, *bias
        out = weight[0] // self.groups
        return (out, *weight[1:]), *[(out,) for _ in bias]


def matrix_layers(terms: Sequence[Layers]) -> tuple[MatrixLayer, ...]:
    """The weights that are matrices in all terms, with their biases."""
    found = []
    biases = _common(terms)
    for j in range(len(terms[0].uses)):
        uses = [use for of_term in terms for use in of_term.uses[j] or ()]
        recognised = all(of_term.uses[j] is not None for of_term in terms)
        matrices = [use for use in uses if isinstance(use, AbstractMatrixUse)]
        kinds = {(use.transposed, use.length, use.groups, _vocabulary(use)) for use in matrices}
        if recognised and matrices and len(matrices) == len(uses) and len(kinds) == 1:
            ((transposed, stack, groups, vocabulary),) = kinds
            found.append(MatrixLayer(j, biases.get(j), transposed, stack, groups, vocabulary))
    return tuple(found)


def _vocabulary(use: AbstractMatrixUse) -> int | None:
    return use.vocabulary if isinstance(use, Lookup) else None


def _common(terms: Sequence[Layers]) -> dict[int, int]:
    """Maps the number of a matrix to that of its bias, if all terms that use them agree."""
    found = {}
    for j in {j for of_term in terms for j in of_term.biases}:
        matrices = {of_term.biases.get(j) for of_term in terms if of_term.uses[j] != ()}
        (matrix, *others) = matrices
        if others or matrix is None:
            continue
        if all(of_term.uses[matrix] == () or j in of_term.biases for of_term in terms):
            found[matrix] = j
    return found
