import jax
from jaxtyping import Array, PyTree
from optax.contrib import MuonDimensionNumbers

from ._base import is_matrix


def matrix_axes(weights: PyTree[Array]) -> PyTree[MuonDimensionNumbers | None]:
    """Which weights `optax.contrib.muon` orthogonalises, and along which axes: the matrices.

    By default, optax takes the first axis of a matrix as its inputs, but in Equinox the first axis
    is the outputs: the factor √max(1, outputs/inputs) of the step would be that of the transpose.
    By default, optax also leaves convolutions to Adam. Jordan, "Muon: An optimizer for hidden
    layers in neural networks" (2024), flattens all axes of a convolution except the outputs. None,
    for a weight that is no matrix, means Adam.

    Jordan leaves embeddings and the last layer to Adam, too. Here, as in optax, every matrix is
    orthogonalised: which layer is the last cannot be read off the weights.
    """
    return jax.tree.map(
        lambda weight: (
            MuonDimensionNumbers(reduction_axis=tuple(range(1, weight.ndim)), output_axis=0)
            if is_matrix(weight)
            else None
        ),
        weights,
    )
