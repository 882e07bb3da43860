from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree, Scalar

from ..._trees import add_scaled, norm, vdot

_Map = Callable[[PyTree[Array]], PyTree[Array]]

# Where the Gram matrix is numerically singular, some twenty products bring the residual down to
# its rounding error; elsewhere one to three do.
_MOST_PRODUCTS = 30


class Refined(eqx.Module):
    """A refined solution x, its residual r = b − A x, and how many products it took."""

    x: PyTree[Array]
    residual: PyTree[Array]
    steps: Int[Array, ""]


class _State(eqx.Module):
    x: PyTree[Array]
    residual: PyTree[Array]
    direction: PyTree[Array]
    gamma: Scalar
    steps: Int[Array, ""]
    done: Bool[Array, ""]


def refine(
    x: PyTree[Array],
    b: PyTree[Array],
    product: _Map,
    inverse: _Map,
    operator_norm: Scalar,
    *,
    enabled: Bool[Array, ""],
) -> Refined:
    """Iterative refinement of A x = b, accelerated: conjugate gradients from x.

    The preconditioner is the direct solve itself, so that the first step is one of ordinary
    refinement, while a direct solve that is off by some factor (which ordinary refinement would
    blow up) still converges. It ends where the residual is that of a backward-stable solve,
    eps ‖A‖‖x‖.

    **Arguments:** `x`, a first solution; `product`, v ↦ A v, and `inverse`, v ↦ about A⁻¹v, both
    symmetric positive definite; `operator_norm`, about ‖A‖; `enabled`, whether to take steps at
    all, or only the residual of `x`.
    """
    eps = float(jnp.finfo(operator_norm.dtype).eps)

    def step(carry: _State) -> _State:
        z = inverse(carry.residual)
        gamma = vdot(carry.residual, z)
        direction = add_scaled(z, gamma / carry.gamma, carry.direction)
        image = product(direction)
        curvature = vdot(direction, image)
        alpha = gamma / curvature
        possible = (gamma > 0) & (curvature > 0) & jnp.isfinite(alpha)
        alpha = jnp.where(possible, alpha, 0)
        # Where no step is possible the image may hold anything.
        image = jax.tree.map(lambda leaf: jnp.where(possible, leaf, 0), image)
        x = add_scaled(carry.x, alpha, direction)
        residual = add_scaled(carry.residual, -alpha, image)
        small = norm(residual) <= eps * operator_norm * norm(x)
        steps = carry.steps + 1
        return _State(
            x, residual, direction, gamma, steps, small | ~possible | (steps >= _MOST_PRODUCTS)
        )

    residual = add_scaled(b, jnp.asarray(-1), product(x))
    start = _State(
        x=x,
        residual=residual,
        direction=jax.tree.map(jnp.zeros_like, x),
        gamma=jnp.full_like(operator_norm, jnp.inf),
        steps=jnp.zeros((), jnp.int32),
        done=~enabled,
    )
    end = jax.lax.while_loop(lambda carry: ~carry.done, step, start)
    return Refined(end.x, end.residual, end.steps + 1)
