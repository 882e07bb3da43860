"""Geodesic acceleration: steps on a curve along which the outputs are linear to second order.

Transtrum and Sethna 2012, "Improvements to the Levenberg–Marquardt algorithm for nonlinear
least-squares minimization", section 3.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree, Scalar, ScalarLike

from .._trees import add_scaled, scaled, select
from ..linearisation import AbstractLinearisation, LinearisedTerm


def acceleration_right_hand_side(
    linearisation: AbstractLinearisation, d: PyTree[Array]
) -> PyTree[Array]:
    """The vector v = Σ_i scale_i J_iᵀ H_i z_i″[d, d], with H_i the Hessian of the loss in z_i.

    The acceleration a solves (C + λI) a = −v, and the curve is w − s·d + ½s²·a.
    """

    def of_terms(terms: Sequence[LinearisedTerm]) -> PyTree[Array]:
        total = jtu.tree_map(jnp.zeros_like, linearisation.params)
        for term in terms:
            total = add_scaled(total, jnp.ones(()), _of_term(term, linearisation.params, d))
        return total

    return linearisation.over_terms(of_terms)


def _of_term(term: LinearisedTerm, params: PyTree[Array], d: PyTree[Array]) -> PyTree[Array]:
    def changes(params: PyTree[Array]) -> Array:
        return jax.jvp(term.outputs_at, (params,), (d,))[1]

    turn = jax.jvp(changes, (params,), (d,))[1]
    z, pull_back = jax.vjp(term.outputs_at, params)
    (found,) = pull_back(jax.jvp(lambda z: term.scored(z)[1], (z,), (turn,))[1])
    return found


def limit_acceleration(
    solution: PyTree[Array], squared_norm: Scalar, of_direction: Scalar, most: ScalarLike
) -> PyTree[Array]:
    """The b of the curve w − s·d − s²·b; zero if `solution` is not finite.

    **Arguments:** `solution`, −a; `squared_norm`, ‖a‖²; `of_direction`, ‖d‖²; `most`, α: a is
    shortened to 2‖a‖ ≤ α‖d‖.
    """
    # The derivative of √ at 0 is infinite, and a is 0 for a model that is linear in its weights.
    is_zero = squared_norm == 0
    size = jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squared_norm)))
    longest = jnp.asarray(most, size.dtype) * jnp.sqrt(of_direction).astype(size.dtype) / 2
    share = jnp.where(size > longest, longest / jnp.where(size > 0, size, 1), 1)
    zeros = jtu.tree_map(jnp.zeros_like, solution)
    return select(jnp.isfinite(size), scaled(share / 2, solution), zeros)
