import equinox as eqx
from jaxtyping import PyTree, ScalarLike

from ._base import AbstractObjective
from ._settings import checked_l2, checked_micro_batch
from ._term import Term


class Objective(AbstractObjective):
    """A weighted sum of named terms; a batch is `{name: (inputs, targets)}`.

    Every term has its own examples; their number n may differ between terms.
    """

    by_name: dict[str, Term]
    l2: ScalarLike | None
    micro_batch: int | None = eqx.field(static=True)

    def __init__(
        self,
        terms: dict[str, Term],
        l2: ScalarLike | None = None,
        micro_batch: int | None = None,
    ):
        named = isinstance(terms, dict) and all(isinstance(term, Term) for term in terms.values())
        if not named or not terms:
            raise ValueError(
                "`Objective(terms=...)` must be a dictionary with at least one `Term`, got "
                f"{terms!r}."
            )
        self.by_name = dict(terms)
        self.l2 = checked_l2(l2)
        self.micro_batch = checked_micro_batch(micro_batch)

    def terms(self) -> PyTree[Term]:
        return self.by_name

    def examples(self, batch: PyTree) -> PyTree:
        return batch
