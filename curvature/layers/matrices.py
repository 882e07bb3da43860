from collections.abc import Sequence
from dataclasses import dataclass

from .recognition import Layers
from .uses import AbstractMatrixUse


@dataclass(frozen=True)
class MatrixLayer:
    """A matrix that every term multiplies vectors by, from one side, or does not use.

    - `weight`: its number; `bias`: that of its bias, or None.
    - `transposed`: whether it is held as [in, out].
    - `length`: L, where it is stacked and each of its L slices is a layer; else None.
    """

    weight: int
    bias: int | None
    transposed: bool
    length: int | None

    @property
    def leaves(self) -> tuple[int, ...]:
        """The numbers of its weights."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


def matrix_layers(terms: Sequence[Layers]) -> tuple[MatrixLayer, ...]:
    """The weights that are matrices in all terms, with their biases."""
    found = []
    biases = _common(terms)
    for j in range(len(terms[0].uses)):
        uses = [use for of_term in terms for use in of_term.uses[j] or ()]
        recognised = all(of_term.uses[j] is not None for of_term in terms)
        matrices = [use for use in uses if isinstance(use, AbstractMatrixUse)]
        kinds = {(use.transposed, use.length) for use in matrices}
        if recognised and matrices and len(matrices) == len(uses) and len(kinds) == 1:
            ((transposed, length),) = kinds
            found.append(MatrixLayer(j, biases.get(j), transposed, length))
    return tuple(found)


def _common(terms: Sequence[Layers]) -> dict[int, int]:
    """The number of a matrix → that of the bias which belongs to it in every term that uses one."""
    found = {}
    for j in {j for of_term in terms for j in of_term.biases}:
        matrices = {of_term.biases.get(j) for of_term in terms if of_term.uses[j] != ()}
        (matrix, *others) = matrices
        if others or matrix is None:
            continue
        if all(of_term.uses[matrix] == () or j in of_term.biases for of_term in terms):
            found[matrix] = j
    return found
