from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Scalar

from .._trees import add_scaled, vdot


class Solved(eqx.Module):
    """The solution d of (C + λI) d = b, and quantities that the solve computes with it.

    - `direction`: d.
    - `metric`: dᵀCd ≥ 0.
    - `squared_residual`: ‖b − (C + λI)d‖². If C is given by its eigenvectors, this is an estimate
      of the rounding errors, (eps ‖C + λI‖₂ ‖d‖)². If b is not formed, such an estimate is added to
      the computed value. In all other cases it is the computed value.
    - `slope`, `squared_vector`: dᵀb and ‖b‖² if the solve computes them without forming b, else
      None.
    """

    direction: PyTree[Array]
    metric: Scalar
    squared_residual: Scalar
    slope: Scalar | None = None
    squared_vector: Scalar | None = None


def solved_by_product(
    product: Callable[[PyTree[Array]], PyTree[Array]],
    damping: Scalar,
    b: PyTree[Array],
    d: PyTree[Array],
) -> Solved:
    """The `Solved` of a given solution d, by one product with C."""
    image = product(d)
    left = add_scaled(add_scaled(b, -jnp.ones(()), image), -damping, d)
    return Solved(d, jnp.maximum(vdot(d, image), 0), vdot(left, left))


def solved_by_eigenvalues(
    direction: PyTree[Array],
    rotated: Float[Array, "..."],
    values: Float[Array, "..."],
    damping: Scalar,
) -> Solved:
    """The `Solved` of a given solution d from Uᵀd, for C = U diag(s) Uᵀ.

    **Arguments:** `rotated`, Uᵀd; `values`, s ≥ 0, of the same shape.
    """
    eps = float(jnp.finfo(values.dtype).eps)
    largest = jnp.max(values, initial=0) + damping.astype(values.dtype)
    squares = rotated**2
    # Not (eps ‖C + λI‖)², which overflows for a λ of 1e27 in float32.
    error = eps * largest * jnp.sqrt(jnp.sum(squares))
    return Solved(direction, jnp.sum(values * squares), error**2)
