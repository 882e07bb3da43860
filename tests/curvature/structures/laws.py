"""Checks for every structure, in float64, against the dense C of the cases of the table."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, PRNGKeyArray

import curvature as cv
from tests.curvature import cases
from tests.curvature.cases import CURVATURES, MODELS, product
from tests.curvature.references import references
from tests.curvature.tools import distance

PULLBACKS = tuple(name for name in CURVATURES if name != "identity")
TWO = ("gauss_newton", "true_fisher")
# Every kind of model is tested with two curvatures. Every curvature and likelihood is tested with
# one model.
QUICK = [("tanh", "categorical", TWO)]
KINDS = [model for model in MODELS if model not in ("tanh", "relu")]
ROWS = [
    *QUICK,
    *((model, cases.ONLY_LIKELIHOOD.get(model, "categorical"), TWO) for model in KINDS),
    *(("tanh", likelihood, PULLBACKS) for likelihood in cases.LIKELIHOODS),
]
DAMPINGS = (1e-8, 1e-5, 1e-2, 1.0, 10.0)

Structure = Callable[[cv.AbstractPullback], cv.AbstractStructure]


def evaluated(
    model: str,
    likelihood: str,
    structure: Structure,
    key: PRNGKeyArray,
    of_key: PRNGKeyArray | None = None,
    names: tuple[str, ...] = PULLBACKS,
) -> dict[str, tuple[lx.AbstractLinearOperator, np.ndarray]]:
    """For every pullback curvature, the operator of the structure and the dense C.

    All operators are computed by one program. `key` is the key of the structure. `of_key` is the
    key that the structure passes to its curvature; the default is `key`.
    """
    of_key = key if of_key is None else of_key
    case = MODELS[model](likelihood)

    @eqx.filter_jit
    def library(model: Any, batch: Any) -> Any:
        here = case.objective.linearise(model, batch, trainable=case.trainable, key=case.key)
        found = {
            name: structure(cases.curvature(name, likelihood)).operator(here, key=key)
            for name in names
        }
        sampled = cases.curvature("true_fisher", likelihood).operator(here, key=of_key)
        return found, [term.keys for term in here.terms], sampled.factors

    found, keys, factors = library(case.model, case.batch)
    terms = [replace(term, keys=k) for term, k in zip(case.terms, keys, strict=True)]
    dense = references(replace(case, terms=terms), [S.matrix for S in factors], names)
    return {name: (found[name], dense[name]) for name in names if name in dense}


@eqx.filter_jit
def _numbers(operator: Any, dampings: Array, vector: Array) -> Any:
    def inverse(damping: Array) -> Any:
        inverse = operator.inverse(damping)
        numbers = inverse.as_matrix(), product(inverse, vector), lx.diagonal(inverse)
        solved = operator.solve(unravel(vector), damping)
        return numbers, (ravelled(solved.direction), solved.metric, solved.squared_residual)

    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), operator.in_structure())
    unravel = jfu.ravel_pytree(zeros)[1]
    numbers = operator.as_matrix(), product(operator, vector), lx.diagonal(operator)
    return numbers, jax.vmap(inverse)(dampings)


@eqx.filter_jit
def matrix_of(operator: Any) -> Array:
    """The matrix of an operator, in one program: each operation alone would be compiled, too."""
    return operator.as_matrix()


def check_operator(operator: Any, *, condition: bool = True) -> np.ndarray:
    """Checks an operator against its own matrix, which must be positive semidefinite.

    The products, the diagonal and the damped inverses must be those of this matrix.

    **Arguments:** `condition`, whether the error of the inverse may be proportional to its
    condition number.

    **Returns:** the matrix.
    """
    size = operator.in_size()
    vector = np.random.default_rng(1).normal(size=size)
    (matrix, applied, diagonal), (inverses, solves) = jax.tree.map(
        np.asarray, _numbers(operator, jnp.asarray(DAMPINGS), jnp.asarray(vector))
    )
    values = np.linalg.eigvalsh(matrix)
    assert distance(matrix, matrix.T) <= 1e-13
    assert values[0] >= -1e-13 * values[-1]
    assert distance(applied, matrix @ vector) <= 1e-13
    assert distance(diagonal, np.diag(matrix)) <= 1e-13
    for damping, inverted, solved, of_inverse in zip(DAMPINGS, *inverses, strict=True):
        expected = np.linalg.inv(matrix + damping * np.eye(size))
        # The rounding error of any inverse, including the dense one, has this size.
        digits = 1e-13 + 10 * np.finfo(float).eps * condition * (values[-1] + damping) / damping
        assert distance(inverted, expected) <= digits, damping
        assert distance(solved, expected @ vector) <= digits, damping
        assert distance(of_inverse, np.diag(expected)) <= digits, damping
    for damping, d, metric, squared_residual in zip(DAMPINGS, *solves, strict=True):
        # The reported numbers must be those of the returned solution, however they are computed.
        digits = 1e-12 * (values[-1] + damping) / damping
        residual = vector - matrix @ d - damping * d
        assert distance(d, np.linalg.solve(matrix + damping * np.eye(size), vector)) <= digits
        assert abs(metric - d @ matrix @ d) <= digits * (d @ vector), damping
        rounding = 50 * np.finfo(float).eps * (values[-1] + damping) * np.linalg.norm(d)
        assert abs(np.sqrt(squared_residual) - np.linalg.norm(residual)) <= rounding, damping
    assert lx.is_symmetric(operator)
    assert lx.is_positive_semidefinite(operator)
    return matrix


def ravelled(tree: Any) -> Any:
    return jfu.ravel_pytree(tree)[0]
