"""The gradient of the loss as a linear combination of rows, plus a remainder."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..likelihoods import Coefficients
from ..linearisation import AbstractLinearisation
from .rows import join_terms

# A larger coefficient means that the row is very small beside the gradient. Rounding errors in the
# products of the other rows would then dominate.
_LARGEST = 100.0
# A column of S counts as a multiple of the gradient if the cosine of their angle is above this.
_COSINE = 0.9999


class Split(eqx.Module):
    """The gradient of the loss as g = Aᵀρ + Jᵀγ.

    - `coefficients`: ρ.
    - `remainder`: γ, a cotangent of the outputs per term, or None if it is known to be zero.

    For any ρ, γ is chosen so that g = Aᵀρ + Jᵀγ exactly; the better ρ, the smaller γ.
    """

    coefficients: Float[Array, " m"]
    remainder: tuple[Float[Array, "..."], ...] | None


def split_gradient(
    linearisation: AbstractLinearisation,
    columns: Sequence[Float[Array, "_r _n *_shape"]],
    known: Sequence[Coefficients | None],
) -> Split:
    """Splits the gradient of the loss.

    Known coefficients are used for every example whose coefficients are moderate. If no
    coefficients are known, an example's gradient may still be a multiple of a column of its S. For
    example, a sampled target may be equal to the target from the data.

    **Arguments:** `columns`, the columns of √(weight/n) S, per term; `known`, per term the
    coefficients ρ_i with S_i ρ_i = ∇_z nll, or None.
    """
    found, remainders = [], []
    for term, cotangent, column, coefficients in zip(
        linearisation.terms, linearisation.cotangents, columns, known, strict=True
    ):
        if coefficients is None:
            rho = jax.vmap(_multiple, in_axes=(1, 0), out_axes=1)(column, cotangent)
        else:
            rho = term.scale_root.astype(coefficients.values.dtype) * coefficients.values.T
        if coefficients is None or not coefficients.bounded:
            # Relative to the scale of each example. A comparison with NaN is false, so that NaN
            # becomes 0.
            moderate = jnp.max(jnp.abs(rho), axis=0) <= _LARGEST * term.scale_root.astype(rho.dtype)
            rho = jnp.where(moderate, rho, 0)
            covered = jnp.einsum("rn,rn...->n...", rho, column)
            if coefficients is not None:  # no remainder where they are used
                kept = moderate.reshape(-1, *[1] * (cotangent.ndim - 1))
                remainders.append(jnp.where(kept, 0, cotangent))
            else:
                remainders.append(cotangent - covered)
        else:
            remainders.append(jnp.zeros_like(cotangent))
        found.append(rho)
    bounded = all(c is not None and c.bounded for c in known)
    return Split(join_terms(found), None if bounded else tuple(remainders))


def _multiple(columns: Float[Array, "r *shape"], gradient: Float[Array, "*shape"]) -> Array:
    """The least-norm coefficients of columns that are multiples of the gradient; else zeros."""
    columns, gradient = columns.reshape(len(columns), -1), gradient.ravel()
    overlaps, squares = columns @ gradient, jnp.sum(columns**2, axis=1)
    matches = jnp.abs(overlaps) > _COSINE * jnp.sqrt(squares * jnp.sum(gradient**2))
    total = jnp.sum(jnp.where(matches, squares, 0))
    return jnp.where(matches, overlaps / total, 0)
