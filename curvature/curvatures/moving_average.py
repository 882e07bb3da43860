import jax
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import PRNGKeyArray, ScalarLike

from .._checks import fraction, scalar
from .._trees import work_dtype
from ..linearisation import AbstractLinearisation
from ..operators import DenseOperator
from ._average import Average
from ._base import AbstractCurvature, check_curvature

_MOST = 8192

_TOO_MANY = (
    f"`MovingAverage(of, decay)` stores a dense matrix, so it takes at most {_MOST:,} trainable "
    "weights, got {found:,}. Use `of` without it, and raise the samples or the batch size instead."
)

_NO_BATCH = (
    "The state of `MovingAverage(of, decay)` has a shape that depends on the weights. Pass a "
    "batch, `opt.init(model, batch=batch)`, or a batch of shapes."
)


class MovingAverage(AbstractCurvature):
    """The average of a curvature over the steps, for small models.

        (1 − β) Σ_s β^(t−s) C_s / (1 − β^t),    s = 1 … t

    C_s is the curvature `of` at the weights of step s. The average reduces the noise of a sampled
    curvature. It is a dense P × P matrix, so the model may have at most 8,192 weights. A batch
    whose C is not finite does not change the average.

    **Arguments:** `of`, a curvature; `decay`, β in (0, 1).
    """

    of: AbstractCurvature
    decay: ScalarLike

    def __init__(self, of: AbstractCurvature, decay: ScalarLike = 0.95):
        check_curvature("MovingAverage(of=...)", of)
        fraction("MovingAverage(decay=...)", decay, positive=True)
        self.of = of
        self.decay = scalar(decay)

    def operator(
        self, linearisation: AbstractLinearisation, *, key: PRNGKeyArray | None = None
    ) -> lx.AbstractLinearOperator:
        return self.of.operator(linearisation, key=key)

    def init(self, linearisation: AbstractLinearisation | None) -> Average:
        if linearisation is None:
            raise ValueError(_NO_BATCH)
        leaves = jtu.tree_leaves(linearisation.params)
        size = sum(leaf.size for leaf in leaves)
        if size > _MOST:
            raise ValueError(_TOO_MANY.format(found=size))
        return Average.zeros(jax.ShapeDtypeStruct((size, size), work_dtype(leaves)))

    def update(
        self,
        linearisation: AbstractLinearisation,
        state: Average,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[lx.AbstractLinearOperator, Average]:
        operator = self.of.operator(linearisation, key=key)
        new = state.update(operator.as_matrix(), self.decay)
        return DenseOperator(new.value(self.decay), operator.in_structure()), new
