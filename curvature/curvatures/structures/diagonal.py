import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, ScalarLike

from ..._checks import fraction, scalar
from ...linearisation import AbstractLinearisation
from ...operators import DiagonalOperator
from .._average import Average
from .._base import AbstractPullback
from ._base import AbstractStructure, no_batch


class Diagonal(AbstractStructure):
    """diag(C): every weight by itself.

    A batch has the diagonal of its own C, which costs a backward pass per example and column of S.
    The diagonal of a step is the average of those of the batches so far, as in `MovingAverage`:

        (1 − β) Σ_s β^(t−s) diag(C_s) / (1 − β^t),    s = 1 … t

    Each C_s is `of` at the weights of its time. A batch whose diagonal is not finite leaves the
    average as it was. `operator` is the diagonal of one batch alone.

    **Arguments:** `of`, any pullback curvature; `decay`, β in [0, 1), 0 for no average.
    """

    of: AbstractPullback
    decay: ScalarLike

    def __init__(self, of: AbstractPullback, decay: ScalarLike = 0.95):
        fraction("Diagonal(decay=...)", decay)
        self.of = of
        self.decay = scalar(decay)

    def operator(
        self, linearisation: AbstractLinearisation, *, key: PRNGKeyArray | None = None
    ) -> DiagonalOperator:
        diagonal = self.of.operator(linearisation, key=key).diagonal()
        return DiagonalOperator(_unravelled(diagonal, linearisation.params))

    def init(self, linearisation: AbstractLinearisation | None) -> Average:
        if linearisation is None:
            raise no_batch(self)
        return Average.zeros(linearisation.params)

    def update(
        self,
        linearisation: AbstractLinearisation,
        state: Average,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[DiagonalOperator, Average]:
        new = state.update(self.operator(linearisation, key=key).values, self.decay)
        return DiagonalOperator(new.value(self.decay)), new


def _unravelled(vector: Float[Array, " P"], params: PyTree[Array]) -> PyTree[Array]:
    """The numbers of a vector in the places of the weights, in their precision."""
    leaves, treedef = jtu.tree_flatten(params)
    pieces = jnp.split(vector, np.cumsum([leaf.size for leaf in leaves])[:-1])
    return treedef.unflatten(
        [piece.reshape(leaf.shape).astype(leaf.dtype) for piece, leaf in zip(pieces, leaves)]
    )
