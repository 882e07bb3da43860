from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, Float, PyTree, Scalar, ScalarLike

from .._checks import instance_of, number
from ._base import AbstractPositiveOperator
from ._forms import products_of, quadratic_forms


class DampedOperator(AbstractPositiveOperator):
    """C + λI for a positive semidefinite operator C and a scalar λ ≥ 0; the sum is PSD, too.

    - `is_zero`: whether λ is known to be 0; a traced λ is not known.
    """

    operator: lx.AbstractLinearOperator
    damping: Scalar
    is_zero: bool = eqx.field(static=True, default=False)

    def mv(self, vector: PyTree[Float[Array, "..."]]) -> PyTree[Float[Array, "..."]]:
        return jtu.tree_map(
            lambda Cv, v: Cv + self.damping.astype(v.dtype) * v, self.operator.mv(vector), vector
        )

    def as_matrix(self) -> Float[Array, "P P"]:
        matrix = self.operator.as_matrix()
        return matrix + self.damping.astype(matrix.dtype) * jnp.eye(len(matrix), dtype=matrix.dtype)

    def diagonal(self) -> Float[Array, " P"]:
        diagonal = lx.diagonal(self.operator)
        return diagonal + self.damping.astype(diagonal.dtype)

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        return self.operator.in_structure()


@quadratic_forms.register
def _(operator: DampedOperator, vectors: Sequence[PyTree[Array]]) -> Float[Array, "k k"]:
    forms = quadratic_forms(operator.operator, vectors)
    return forms + operator.damping.astype(forms.dtype) * products_of(vectors, vectors)


lx.is_diagonal.register(DampedOperator)(lambda damped: lx.is_diagonal(damped.operator))


def damped(operator: lx.AbstractLinearOperator, damping: ScalarLike) -> DampedOperator:
    """C + λI, tagged positive semidefinite.

    **Arguments:** `operator`, C, positive semidefinite; `damping`, λ ≥ 0, a number or an array.
    If C is itself a `DampedOperator`, λ is added to its damping.

    **Raises:** `ValueError` for an operator not tagged PSD or a λ that is negative or not finite.
    """
    wanted = "a lineax operator"
    instance_of("damped(operator=...)", operator, lx.AbstractLinearOperator, wanted)
    if not lx.is_positive_semidefinite(operator):
        raise ValueError(
            "`damped(operator, damping)` takes an operator that lineax knows to be positive "
            f"semidefinite, got {type(operator).__name__}. Tag it with "
            "`lineax.positive_semidefinite_tag`."
        )
    is_zero = number("damped(damping=...)", damping) == 0
    damping = jnp.asarray(damping)
    if isinstance(operator, DampedOperator):
        damping = damping + operator.damping.astype(damping.dtype)
        is_zero = is_zero and operator.is_zero
        operator = operator.operator
    return DampedOperator(operator, damping, is_zero)
