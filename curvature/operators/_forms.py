from collections.abc import Sequence
from functools import singledispatch

import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree

from .._trees import vdot


@singledispatch
def quadratic_forms(
    operator: lx.AbstractLinearOperator, vectors: Sequence[PyTree[Array]]
) -> Float[Array, "k k"]:
    """The quadratic forms vᵢᵀ C vⱼ.

    For a general operator this costs k products. A class of operators with a cheaper method
    registers this method.
    """
    return products_of(vectors, [operator.mv(vector) for vector in vectors])


def products_of(
    left: Sequence[PyTree[Array]], right: Sequence[PyTree[Array]]
) -> Float[Array, "k k"]:
    """All inner products ⟨uᵢ, vⱼ⟩."""
    return jnp.stack([jnp.stack([vdot(u, v) for v in right]) for u in left])
