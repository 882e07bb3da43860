import equinox as eqx
from jaxtyping import PyTree, ScalarLike

from ..likelihoods import AbstractLoss
from ._base import AbstractObjective
from ._settings import checked_l2, checked_micro_batch
from ._term import Term, call_model, check_likelihood


class Supervised(AbstractObjective):
    """L = 1/n Σ_i nll(model(x_i), y_i); a batch is `(inputs, targets)`.

    A batch `(inputs, targets, weights)` has L = 1/n Σ_i weights_i nll(model(x_i), y_i). Every
    curvature has the same weights. An example with weight 0 has no effect, even if it holds NaN;
    the derivative in such a weight is NaN. To weight classes, pass `class_weights[targets]` as the
    weights.
    """

    likelihood: AbstractLoss
    l2: ScalarLike | None
    micro_batch: int | None = eqx.field(static=True)

    def __init__(
        self,
        likelihood: AbstractLoss,
        l2: ScalarLike | None = None,
        micro_batch: int | None = None,
    ):
        check_likelihood("Supervised", likelihood)
        self.likelihood = likelihood
        self.l2 = checked_l2(l2)
        self.micro_batch = checked_micro_batch(micro_batch)

    def terms(self) -> PyTree[Term]:
        return Term(call_model, self.likelihood)

    def examples(self, batch: PyTree) -> PyTree:
        return batch
