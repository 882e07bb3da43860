from typing import Any, NoReturn

import lineax as lx
from jaxtyping import Array, PyTree

_NOT_YET = (
    "`SampleSpace()`, the exact solve in sample space, is not yet there. Use `Auto()`, `CG()` or "
    "`lineax.Cholesky()`."
)


class SampleSpace(lx.AbstractLinearSolver):
    """The exact solve through the m × m system AAᵀ + λI of the rows A of C = AᵀA. Not yet there."""

    def __check_init__(self):
        raise NotImplementedError(_NOT_YET)

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> NoReturn:
        raise NotImplementedError(_NOT_YET)

    def compute(self, state: Any, vector: PyTree[Array], options: dict[str, Any]) -> NoReturn:
        raise NotImplementedError(_NOT_YET)

    def transpose(self, state: Any, options: dict[str, Any]) -> NoReturn:
        raise NotImplementedError(_NOT_YET)

    def conj(self, state: Any, options: dict[str, Any]) -> NoReturn:
        raise NotImplementedError(_NOT_YET)

    def assume_full_rank(self) -> NoReturn:
        raise NotImplementedError(_NOT_YET)
