"""Dense matrices from their definitions, as references: nothing here calls `curvature`.

Jacobians and Hessians are computed by `jax.jacrev` and `jax.hessian`. An expectation over the
model's targets is a sum over all outcomes. The functions are meant for float64 and for few weights.

    C = Σ_t weight_t/n_t Σ_i J_iᵀ M_i J_i
"""

import abc
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

Metric = Callable[[Array, Array], Array]  # (z, y) of one example -> M (c × c)


class Distribution(abc.ABC):
    """p(· | z), defined by its negative log-density and its outcomes."""

    @abc.abstractmethod
    def nll(self, z: Array, y: Array) -> Array: ...

    @abc.abstractmethod
    def outcomes(self, z: Array) -> tuple[Float[Array, " m"], Array]:
        """Probabilities and targets [m, ...] whose weighted sum is the expectation over targets."""

    @abc.abstractmethod
    def kl(self, z: Array, z2: Array) -> Array: ...

    @abc.abstractmethod
    def squared_hellinger(self, z: Array, z2: Array) -> Array: ...


class _Discrete(Distribution):
    """A distribution with finitely many outcomes."""

    def kl(self, z: Array, z2: Array) -> Array:
        p, targets = self.outcomes(z)
        gap = jax.vmap(lambda t: self.nll(z2, t) - self.nll(z, t))(targets)
        return jnp.sum(p * gap)

    def squared_hellinger(self, z: Array, z2: Array) -> Array:
        return 1 - jnp.sum(jnp.sqrt(self.outcomes(z)[0] * self.outcomes(z2)[0]))


class Categorical(_Discrete):
    """One class per row of the logits [..., c]; y is labels [...] or probabilities [..., c]."""

    def nll(self, z: Array, y: Array) -> Array:
        if jnp.issubdtype(y.dtype, jnp.integer):
            y = jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype)
        p = jnp.exp(z) / jnp.sum(jnp.exp(z), axis=-1, keepdims=True)
        return -jnp.sum(y * jnp.log(p))

    def outcomes(self, z: Array) -> tuple[Array, Array]:
        rows = z.reshape(-1, z.shape[-1])
        labels = _grid(range(rows.shape[1]), len(rows))
        p = jnp.exp(rows) / jnp.sum(jnp.exp(rows), axis=-1, keepdims=True)
        chosen = p[np.arange(len(rows))[None, :], labels]
        return jnp.prod(chosen, axis=1), jnp.asarray(labels.reshape(-1, *z.shape[:-1]))


class Bernoulli(_Discrete):
    """Independent bits with logits z."""

    def nll(self, z: Array, y: Array) -> Array:
        p = 1 / (1 + jnp.exp(-z))
        return -jnp.sum(y * jnp.log(p) + (1 - y) * jnp.log(1 - p))

    def outcomes(self, z: Array) -> tuple[Array, Array]:
        bits = jnp.asarray(_grid((0.0, 1.0), z.size).reshape(-1, *z.shape), z.dtype)
        return jnp.exp(-jax.vmap(self.nll, in_axes=(None, 0))(z, bits)), bits


@dataclass(frozen=True)
class Gaussian(Distribution):
    """A Gaussian with mean z; the constant of the log-density is left out."""

    variance: float

    def nll(self, z: Array, y: Array) -> Array:
        return jnp.sum((z - y) ** 2) / (2 * self.variance)

    def outcomes(self, z: Array) -> tuple[Array, Array]:
        """Three Gauss–Hermite nodes per output, which are exact for polynomials of degree 5."""
        nodes = _grid((-(3**0.5), 0.0, 3**0.5), z.size)
        p = np.prod(np.where(nodes == 0, 2 / 3, 1 / 6), axis=1)
        shifts = jnp.asarray(nodes.reshape(-1, *z.shape) * self.variance**0.5, z.dtype)
        return jnp.asarray(p, z.dtype), z[None] + shifts

    def kl(self, z: Array, z2: Array) -> Array:
        return jnp.sum((z - z2) ** 2) / (2 * self.variance)

    def squared_hellinger(self, z: Array, z2: Array) -> Array:
        return 1 - jnp.exp(-jnp.sum((z - z2) ** 2) / (8 * self.variance))


def _grid(values: Any, repeat: int) -> np.ndarray:
    return np.asarray(list(itertools.product(values, repeat=repeat)))


# The metrics M on one example's outputs.


def score(distribution: Distribution, z: Array, t: Array) -> Float[Array, " c"]:
    return jnp.ravel(jax.grad(distribution.nll)(z, t))


def scores(distribution: Distribution, z: Array) -> tuple[Float[Array, " m"], Float[Array, "m c"]]:
    """For every outcome, its probability and the gradient of its nll."""
    p, targets = distribution.outcomes(z)
    return p, jax.vmap(lambda t: score(distribution, z, t))(targets)


def hessian(fn: Callable[[Array], Array], z: Array) -> Float[Array, "c c"]:
    return jax.hessian(fn)(z).reshape(z.size, z.size)


def gauss_newton(distribution: Distribution) -> Metric:
    return lambda z, y: hessian(lambda z: distribution.nll(z, y), z)


def exact_fisher(distribution: Distribution) -> Metric:
    def metric(z: Array, y: Array) -> Array:
        p, g = scores(distribution, z)
        return (p[:, None] * g).T @ g

    return metric


def empirical_fisher(distribution: Distribution) -> Metric:
    def metric(z: Array, y: Array) -> Array:
        g = score(distribution, z, y)
        return jnp.outer(g, g)

    return metric


def divergence(rho: Callable[[Array, Array], Array]) -> Metric:
    return lambda z, y: hessian(lambda z2: rho(z, z2), z)


def clipped(metric: Metric) -> Metric:
    """The metric, replaced by the nearest positive semidefinite matrix in the Frobenius norm."""

    def nearest(z: Array, y: Array) -> Array:
        values, vectors = jnp.linalg.eigh(metric(z, y))
        return jnp.einsum("ik,k,jk->ij", vectors, jnp.maximum(values, 0), vectors)

    return nearest


# The pullback.


@dataclass(frozen=True)
class Term:
    """A term and its n examples; `outputs(model, x, key)` returns z of one example."""

    outputs: Callable[[Any, Any, Any], Array]
    distribution: Distribution
    inputs: PyTree
    targets: PyTree
    weight: float = 1.0
    keys: Array | None = None

    def values(self, model: PyTree) -> Float[Array, "n ..."]:
        return jax.vmap(lambda x, key: self.outputs(model, x, key))(self.inputs, self.keys)

    def jacobians(self, model: PyTree, trainable: PyTree) -> Float[Array, "n c P"]:
        """∂z_i/∂w, where w is the vector of all trainable weights."""
        params, frozen = eqx.partition(model, trainable)
        flat, unravel = jfu.ravel_pytree(params)

        def ravelled(flat: Array, x: Any, key: Any) -> Array:
            return jnp.ravel(self.outputs(eqx.combine(unravel(flat), frozen), x, key))

        return jax.vmap(jax.jacrev(ravelled), in_axes=(None, 0, 0))(flat, self.inputs, self.keys)


def pullback(
    scale: float, J: Float[np.ndarray, "n c P"], M: Float[np.ndarray, "n c c"]
) -> Float[np.ndarray, "P P"]:
    """scale Σ_i J_iᵀ M_i J_i."""
    return scale * np.einsum("icp,icd,idq->pq", J, M, J, optimize=True)


def loss(terms: list[Term], model: PyTree) -> Array:
    return sum(
        term.weight * jnp.mean(jax.vmap(term.distribution.nll)(term.values(model), term.targets))
        for term in terms
    )
