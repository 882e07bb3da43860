from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree, Scalar

from ._base import as_matrix, check_fraction, check_positive, first_sides, is_matrix


class Side(NamedTuple):
    """One side of a matrix: L or R of the paper, and its inverse root of the last refresh."""

    factor: Float[Array, "side side"]
    root: Float[Array, "side side"]


Sides = tuple[Side | None, Side | None]


class ShampooState(NamedTuple):
    """Adam's state, and the sides of each weight in the order of the leaves; None: identity."""

    adam: optax.ScaleByAdamState
    sides: tuple[Sides, ...]


def shampoo(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    decay: float = 0.95,
    eps: float = 1e-12,
    precondition_frequency: int = 10,
    max_dim: int = 10_000,
    grafting: bool = True,
) -> optax.GradientTransformation:
    """Shampoo: a preconditioner for the rows and one for the columns of every matrix.

    Gupta, Koren & Singer 2018, "Shampoo: Preconditioned Stochastic Tensor Optimization",
    Algorithm 1. For the gradient G of a matrix and its average M (Adam's, with bias correction),

        L = ε I + Σ G Gᵀ,    R = ε I + Σ Gᵀ G,    D = L^(−1/4) M R^(−1/4),    step = −η D

    The paper is `b1=0, decay=1, precondition_frequency=1, grafting=False`. Beyond it, as in Anil et
    al. 2020, "Scalable Second Order Optimization for Deep Learning":

    - `decay` < 1: averages with bias correction in place of sums, (1 − decay) Σ decay^(t−s) G Gᵀ.
    - `grafting`: D is scaled to the Frobenius norm of Adam's step for the same matrix, so that
        learning rates are those of Adam. Anil et al. graft from Adagrad, Shi et al. 2023 ("A
        Distributed Data-Parallel PyTorch Implementation of the Distributed Shampoo Optimizer")
        from Adam, too.
    - Inverse roots are computed every `precondition_frequency` steps, beginning with the first.
    - A side larger than `max_dim` keeps the identity; the other side then has the exponent −1/2.

    Weights that are no matrices (see `is_matrix`) are updated by Adam. Eigenvalues that rounding
    has made negative are set to zero; then ε is added. 1e-12 is the value of Shi et al.

    **Arguments:** `learning_rate`, η; `b1`, `b2`, Adam's; `eps`, ε; the others as above.

    **Raises:** `ValueError` for a value out of range.
    """
    check_fraction("shampoo(b1=...)", b1)
    check_fraction("shampoo(b2=...)", b2)
    check_fraction("shampoo(decay=...)", decay, one=True)
    check_positive("shampoo(precondition_frequency=...)", precondition_frequency)
    check_positive("shampoo(max_dim=...)", max_dim)
    adam = optax.scale_by_adam(b1, b2)

    def init(params: PyTree[Array]) -> ShampooState:
        sides = tuple(first_sides(Side, weight, max_dim) for weight in jax.tree.leaves(params))
        return ShampooState(adam.init(params), sides)  # pyright: ignore

    def update(
        gradients: PyTree[Array], state: ShampooState, params: PyTree[Array] | None = None
    ) -> tuple[PyTree[Array], ShampooState]:
        adam_steps, adam_state = adam.update(gradients, state.adam, params)
        t = adam_state.count.astype(jnp.result_type(float))  # pyright: ignore
        leaves, treedef = jax.tree.flatten(gradients)
        sides = tuple(
            _accumulate(as_matrix(gradient), old, decay)
            for gradient, old in zip(leaves, state.sides, strict=True)
        )
        weight = 1.0 - decay**t if decay < 1 else jnp.ones_like(t)
        sides = jax.lax.cond(
            jnp.asarray(state.adam.count) % precondition_frequency == 0,
            lambda sides: tuple(_roots(each, weight, eps) for each in sides),
            lambda sides: sides,
            sides,
        )
        means = jax.tree.map(
            lambda mean: mean / (1 - b1**t).astype(mean.dtype),
            adam_state.mu,  # pyright: ignore
        )
        steps = [
            _step(mean, adam_step, each, grafting)
            for mean, adam_step, each in zip(
                jax.tree.leaves(means), jax.tree.leaves(adam_steps), sides, strict=True
            )
        ]
        return treedef.unflatten(steps), ShampooState(adam_state, sides)  # pyright: ignore

    scale = optax.GradientTransformation(init, update)  # pyright: ignore
    return optax.chain(scale, optax.scale_by_learning_rate(learning_rate))


def _accumulate(gradient: Float[Array, "m n"], sides: Sides, decay: float) -> Sides:
    share = 1 - decay if decay < 1 else 1.0
    left, right = sides
    if left is not None:
        left = left._replace(factor=decay * left.factor + share * gradient @ gradient.T)
    if right is not None:
        right = right._replace(factor=decay * right.factor + share * gradient.T @ gradient)
    return left, right


def _roots(sides: Sides, weight: Scalar, eps: float) -> Sides:
    """Inverse roots of the factors divided by `weight`; the exponents of the sides sum to −1/2."""
    power = -0.5 / max(1, sum(side is not None for side in sides))

    def rooted(side: Side | None) -> Side | None:
        if side is None:
            return None
        values, vectors = jnp.linalg.eigh(side.factor / weight.astype(side.factor.dtype))
        scales = (jnp.maximum(values, 0) + eps) ** power
        return side._replace(root=(vectors * scales[None, :]) @ vectors.T)

    left, right = sides
    return rooted(left), rooted(right)


def _step(mean: Array, adam_step: Array, sides: Sides, grafting: bool) -> Array:
    if not is_matrix(mean):
        return adam_step
    direction = as_matrix(mean)
    left, right = sides
    direction = direction if left is None else left.root @ direction
    direction = direction if right is None else direction @ right.root
    if grafting:
        length = jnp.linalg.norm(direction)
        # Both norms are zero as long as every gradient was zero: 0/1 instead of 0/0.
        direction *= jnp.linalg.norm(as_matrix(adam_step)) / jnp.where(length > 0, length, 1)
    return direction.reshape(mean.shape)
