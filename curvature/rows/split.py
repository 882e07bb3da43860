"""The gradient of the loss as a combination of rows, as far as it is one."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..likelihoods import Coefficients
from ..linearisation import AbstractLinearisation
from .rows import joined

# Larger coefficients stand for rows that are so small beside the gradient that rounding errors of
# the other rows' products would drown it.
_LARGEST = 100.0
# A column of S at a smaller angle than this to the gradient is taken to be a multiple of it.
_COSINE = 0.9999


class Split(eqx.Module):
    """The gradient of the loss as g = Aᵀρ + Jᵀγ.

    - `coefficients`: ρ.
    - `remainder`: γ, a cotangent of the outputs per term, or None where it is known to be zero.

    Every ρ has its γ, so that the split is exact; a good one leaves a small γ.
    """

    coefficients: Float[Array, " m"]
    remainder: tuple[Float[Array, "..."], ...] | None


def split_gradient(
    linearisation: AbstractLinearisation,
    columns: Sequence[Float[Array, "_r _n *_shape"]],
    known: Sequence[Coefficients | None],
) -> Split:
    """Splits the gradient.

    Coefficients that are known are used for every example for which they are of moderate size.
    Where none are known, an example's gradient may still be a multiple of a column of its S: a
    sampled target may be the one from the data.

    **Arguments:** `columns`, those of √(weight/n) S, per term; `known`, the coefficients by S.
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
            # In units of the examples' own scale; comparisons with NaN are false.
            moderate = jnp.max(jnp.abs(rho), axis=0) <= _LARGEST * term.scale_root.astype(rho.dtype)
            rho = jnp.where(moderate, rho, 0)
            covered = jnp.einsum("rn,rn...->n...", rho, column)
            if coefficients is not None:  # then nothing is left, but for rounding
                kept = moderate.reshape(-1, *[1] * (cotangent.ndim - 1))
                remainders.append(jnp.where(kept, 0, cotangent))
            else:
                remainders.append(cotangent - covered)
        else:
            remainders.append(jnp.zeros_like(cotangent))
        found.append(rho)
    bounded = all(c is not None and c.bounded for c in known)
    return Split(joined(found), None if bounded else tuple(remainders))


def _multiple(columns: Float[Array, "r *shape"], gradient: Float[Array, "*shape"]) -> Array:
    """The gradient by the columns that are multiples of it, with the least norm; else zeros."""
    columns, gradient = columns.reshape(len(columns), -1), gradient.ravel()
    overlaps, squares = columns @ gradient, jnp.sum(columns**2, axis=1)
    matches = jnp.abs(overlaps) > _COSINE * jnp.sqrt(squares * jnp.sum(gradient**2))
    total = jnp.sum(jnp.where(matches, squares, 0))
    return jnp.where(matches, overlaps / total, 0)
