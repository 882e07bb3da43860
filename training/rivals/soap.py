from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from ._base import as_matrix, check_fraction, check_positive, first_sides


class Side(NamedTuple):
    """One side of a matrix: L or R of the paper, and the estimate Q of its eigenvectors."""

    factor: Float[Array, "side side"]
    basis: Float[Array, "side side"]


class Moments(NamedTuple):
    """The moments of one weight: M in its own basis, V in the eigenbasis; side None: identity."""

    first: Float[Array, "m n"]
    second: Float[Array, "m n"]
    sides: tuple[Side | None, Side | None]


class SOAPState(NamedTuple):
    """The number of updates so far, and the moments of each weight in the order of the leaves."""

    updates: Int[Array, ""]
    moments: tuple[Moments, ...]


def soap(
    learning_rate: optax.ScalarOrSchedule = 3e-3,
    *,
    b1: float = 0.95,
    b2: float = 0.95,
    eps: float = 1e-8,
    precondition_frequency: int = 10,
    max_dim: int = 10_000,
) -> optax.GradientTransformation:
    """SOAP: Adam in the eigenbasis of Shampoo's preconditioner.

    Vyas et al. 2024, "SOAP: Improving and Stabilizing Shampoo using Adam", Algorithm 3. For the
    gradient G of a matrix,

        G' = Q_Lᵀ G Q_R,    M = β₁ M + (1 − β₁) G,    V = β₂ V + (1 − β₂) G' ⊙ G'
        step = −η Q_L [M̂' / (√V̂ + ε)] Q_Rᵀ,    M' = Q_Lᵀ M Q_R
        L = β₂ L + (1 − β₂) G Gᵀ,    R = β₂ R + (1 − β₂) Gᵀ G

    with Adam's bias corrections. Every `precondition_frequency` steps, after the step,
    Q = qr(L Q): one power iteration (Algorithm 4). As in the authors' code:

    1. The first update takes no step. It sets L and R, and their bases by `eigh`. So no gradient is
        projected to a basis that was computed from the same gradient.
    2. Before a power iteration, the columns of Q, and V with them, are sorted by their Rayleigh
        quotients, so that `qr` keeps the leading ones.

    Weights that are no matrices (see `is_matrix`) are updated by Adam. A side larger than `max_dim`
    keeps the identity as its basis. The defaults are those of the authors' code, except that there
    is no weight decay.

    **Arguments:** `learning_rate`, η; `b1`, `b2`, β₁ and β₂; `eps`, ε; the others as above.

    **Raises:** `ValueError` for a value out of range.
    """
    check_fraction("soap(b1=...)", b1)
    check_fraction("soap(b2=...)", b2)
    check_positive("soap(precondition_frequency=...)", precondition_frequency)
    check_positive("soap(max_dim=...)", max_dim)

    def init(params: PyTree[Array]) -> SOAPState:
        moments = tuple(_zeros(weight, max_dim) for weight in jax.tree.leaves(params))
        return SOAPState(jnp.zeros((), jnp.int32), moments)

    def update(
        gradients: PyTree[Array], state: SOAPState, params: PyTree[Array] | None = None
    ) -> tuple[PyTree[Array], SOAPState]:
        del params
        leaves, treedef = jax.tree.flatten(gradients)
        first = state.updates == 0
        steps, moments = [], []
        for leaf, old in zip(leaves, state.moments, strict=True):
            gradient = as_matrix(leaf)
            # The first update discards this step; the maximum avoids 0/0 in its bias correction.
            step, new = _adam(gradient, old, jnp.maximum(state.updates, 1), b1, b2, eps)
            steps.append(jnp.where(first, 0, step).reshape(leaf.shape))
            kept = old._replace(
                first=jnp.where(first, old.first, new.first),
                second=jnp.where(first, old.second, new.second),
            )
            moments.append(_accumulate(gradient, kept, b2))
        due = state.updates % precondition_frequency == 0
        branch = jnp.where(first, 0, jnp.where(due, 1, 2))
        moments = jax.lax.switch(branch, [_decompose, _iterate, lambda x: x], tuple(moments))
        return treedef.unflatten(steps), SOAPState(state.updates + 1, moments)

    scale = optax.GradientTransformation(init, update)  # pyright: ignore
    return optax.chain(scale, optax.scale_by_learning_rate(learning_rate))


def _zeros(weight: Array, max_dim: int) -> Moments:
    zeros = jnp.zeros_like(as_matrix(weight))
    return Moments(zeros, jnp.zeros_like(zeros), first_sides(Side, weight, max_dim))


def _adam(
    gradient: Float[Array, "m n"],
    old: Moments,
    count: Int[Array, ""],
    b1: float,
    b2: float,
    eps: float,
) -> tuple[Float[Array, "m n"], Moments]:
    """The step, before the learning rate and its sign, and the new moments."""
    t = count.astype(gradient.dtype)
    rotated = _rotate(gradient, old.sides)
    first = b1 * old.first + (1 - b1) * gradient
    second = b2 * old.second + (1 - b2) * rotated**2
    mean = _rotate(first, old.sides) / (1 - b1**t)
    adam = mean / (jnp.sqrt(second / (1 - b2**t)) + eps)
    return _rotate_back(adam, old.sides), old._replace(first=first, second=second)


def _rotate(
    matrix: Float[Array, "m n"], sides: tuple[Side | None, Side | None]
) -> Float[Array, "m n"]:
    left, right = sides
    matrix = matrix if left is None else left.basis.T @ matrix
    return matrix if right is None else matrix @ right.basis


def _rotate_back(
    matrix: Float[Array, "m n"], sides: tuple[Side | None, Side | None]
) -> Float[Array, "m n"]:
    left, right = sides
    matrix = matrix if left is None else left.basis @ matrix
    return matrix if right is None else matrix @ right.basis.T


def _accumulate(gradient: Float[Array, "m n"], moments: Moments, b2: float) -> Moments:
    left, right = moments.sides
    if left is not None:
        left = left._replace(factor=b2 * left.factor + (1 - b2) * gradient @ gradient.T)
    if right is not None:
        right = right._replace(factor=b2 * right.factor + (1 - b2) * gradient.T @ gradient)
    return moments._replace(sides=(left, right))


def _decompose(moments: tuple[Moments, ...]) -> tuple[Moments, ...]:
    """Compute every basis by an eigendecomposition, with the largest eigenvalue first."""

    def decomposed(side: Side | None) -> Side | None:
        return side and side._replace(basis=jnp.linalg.eigh(side.factor)[1][:, ::-1])

    return tuple(
        each._replace(sides=(decomposed(each.sides[0]), decomposed(each.sides[1])))
        for each in moments
    )


def _iterate(moments: tuple[Moments, ...]) -> tuple[Moments, ...]:
    """Update every basis by one power iteration."""
    return tuple(_iterate_one(each) for each in moments)


def _iterate_one(moments: Moments) -> Moments:
    second, sides = moments.second, list(moments.sides)
    for axis, side in enumerate(moments.sides):
        if side is None:
            continue
        product = side.factor @ side.basis
        order = jnp.argsort(-jnp.sum(side.basis * product, axis=0))
        second = jnp.take(second, order, axis=axis)
        sides[axis] = side._replace(basis=jnp.linalg.qr(product[:, order])[0])
    return moments._replace(second=second, sides=(sides[0], sides[1]))
