"""The dense matrix of every curvature in conf/curvature, for a case of the table."""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tests.curvature import dense
from tests.curvature.cases import Case
from tests.curvature.tools import flat

Pullback = Callable[[float, np.ndarray, np.ndarray], np.ndarray]


def references(
    case: Case,
    drawn: list[Float[Array, "n c k"]],
    names: tuple[str, ...],
    pullback: Pullback = dense.pullback,
) -> dict[str, np.ndarray]:
    """The dense matrices of the curvatures with these names.

    A curvature without a definition here, such as a new one, has no matrix in the result. `drawn`
    holds S of the sampled Fisher for each term.
    """
    size = flat(eqx.filter(case.model, case.trainable)).size
    matrices = {"identity": np.eye(size)}
    known = tuple(name for name in names if name in METRICS)
    for term, S in zip(case.terms, drawn, strict=True):
        z = term.values(case.model)
        J = eqx.filter_jit(term.jacobians)(case.model, case.trainable)
        Ms = metrics(term.distribution, known)(z, term.targets, S)
        for name, M in Ms.items():
            C = pullback(term.weight / len(z), np.asarray(J), np.asarray(M))
            matrices[name] = matrices.get(name, 0) + C
    return matrices


METRICS = {
    "gauss_newton": dense.gauss_newton,
    "exact_fisher": dense.exact_fisher,
    "empirical_fisher": dense.empirical_fisher,
    "divergence": lambda of: dense.divergence(of.kl),
    "divergence_hellinger": lambda of: dense.divergence(of.squared_hellinger),
    "divergence_euclidean": lambda of: dense.divergence(lambda z, z2: jnp.sum((z - z2) ** 2) / 2),
    "true_fisher": lambda of: functools.partial(sampled, of),
}


@functools.cache
def metrics(
    distribution: dense.Distribution, names: tuple[str, ...]
) -> Callable[[Array, Array, Array], dict[str, Array]]:
    """A compiled function from (z, y, S) of n examples to the metrics M [n, c, c].

    It is cached, so that it is compiled once for all models.
    """

    @jax.jit
    def compiled(z: Array, y: Array, S: Array) -> dict[str, Array]:
        found = {}
        for name in names:
            M, given = METRICS[name](distribution), S if name == "true_fisher" else y
            found[name] = jax.vmap(M)(z, given)
        return found

    return compiled


def sampled(
    distribution: dense.Distribution, z: Array, S: Float[Array, "c k"]
) -> Float[Array, "c c"]:
    """The mean outer product of the scores of the k drawn targets.

    The columns of √k S are these scores. If the distribution has finitely many outcomes, each
    column is replaced by the nearest score of an outcome, which is computed without the library.
    """
    drawn = S.T * S.shape[1] ** 0.5
    if not isinstance(distribution, dense.Gaussian):
        _, possible = dense.scores(distribution, z)
        distance = jnp.sum((drawn[:, None, :] - possible[None, :, :]) ** 2, axis=-1)
        drawn = possible[jnp.argmin(distance, axis=1)]
    return drawn.T @ drawn / len(drawn)
