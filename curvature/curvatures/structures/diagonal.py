import jax
import jax.tree_util as jtu
from jaxtyping import PRNGKeyArray, ScalarLike

from ..._checks import fraction, scalar
from ..._precision import full_precision
from ...linearisation import AbstractLinearisation
from ...operators import DiagonalOperator
from .._average import Average
from .._base import AbstractPullback
from ._base import AbstractStructure, no_batch
from ._captures import captures_of_parts, squares_of
from ._partition import partition_of
from ._rest import blocks_of
from ._slices import joined_layout


class Diagonal(AbstractStructure):
    """diag(C), the diagonal of a pullback curvature.

    The diagonal for one batch is that of the batch's C. For layers it is computed from their inputs
    and cotangents. The diagonal for a step is an average over the batches so far, as in
    `MovingAverage`:

        (1 − β) Σ_s β^(t−s) diag(C_s) / (1 − β^t),    s = 1 … t

    C_s is the curvature `of` at the weights of step s. A batch whose diagonal is not finite does
    not change the average. `operator` returns the diagonal for one batch alone.

    **Arguments:** `of`, any pullback curvature; `decay`, β in [0, 1), 0 for no average.
    """

    of: AbstractPullback
    decay: ScalarLike

    def __init__(self, of: AbstractPullback, decay: ScalarLike = 0.95):
        fraction("Diagonal(decay=...)", decay)
        self.of = of
        self.decay = scalar(decay)

    @full_precision
    def operator(
        self, linearisation: AbstractLinearisation, *, key: PRNGKeyArray | None = None
    ) -> DiagonalOperator:
        C = self.of.operator(linearisation, key=key)
        partition = partition_of(linearisation, max_block=0)  # all but the layers elementwise
        leaves, treedef = jtu.tree_flatten(linearisation.params)
        captures = captures_of_parts(linearisation, C.factors, partition.layers)
        for layer, squares in zip(partition.layers, captures.sum(squares_of), strict=True):
            split = jax.vmap(joined_layout(layer, linearisation).split)(squares)
            for j, values in zip(layer.leaves, split, strict=True):
                leaves[j] = values.reshape(leaves[j].shape).astype(leaves[j].dtype)
        _, diagonals = blocks_of(linearisation, C.factors, [], partition.elementwise)
        for group, of_group in zip(partition.elementwise, diagonals, strict=True):
            for j, values in zip(group.leaves, of_group, strict=True):
                leaves[j] = values.astype(leaves[j].dtype)
        return DiagonalOperator(treedef.unflatten(leaves))

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
