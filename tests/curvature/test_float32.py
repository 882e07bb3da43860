"""In float32 the error of a product with C is within a bound on its rounding errors."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from curvature import SampledFisher
from tests.curvature import dense
from tests.curvature.cases import CURVATURES, LIKELIHOODS, MODELS, SAMPLES, operators, product
from tests.curvature.references import METRICS, references
from tests.curvature.tools import flat, float64

# The largest number of rounded operations on one path through the network and back. For the
# activations each of the three layers has 6: a sum of 4, a bias and an activation. The tangents and
# the cotangents have as many. S Sᵀ has 10, and the mean over 5 examples has 6.
ROUNDINGS = 3 * 18 + 16


def products(likelihood: str, names: tuple[str, ...]) -> SimpleNamespace:
    """Products in float32 (`applied`), and their references in float64 (`expected`).

    `magnitudes` are the products of the matrices of absolute values with the absolute vector.
    """
    case = MODELS["tanh"](likelihood)
    vector = np.random.default_rng(1).normal(size=flat(case.model).size).astype(np.float32)

    @eqx.filter_jit
    def library(model: Any, batch: Any, vector: Array) -> Any:
        found = operators(case, likelihood, jax.random.key(3), model, batch, [*names])
        drawn = SampledFisher(SAMPLES).operator(
            case.objective.linearise(model, batch), key=jax.random.key(3)
        )
        return {name: product(C, vector) for name, C in found.items()}, drawn.factors

    applied, factors = library(case.model, case.batch, jnp.asarray(vector))
    with jax.enable_x64(True):
        model, terms, drawn = float64(
            (case.model, [vars(term) for term in case.terms], [f.matrix for f in factors])
        )
        wide = replace(case, model=model, terms=[dense.Term(**term) for term in terms])
        matrices = references(wide, drawn, names)
        absolutes = references(wide, drawn, names, absolute)
    return SimpleNamespace(
        applied=jax.tree.map(np.asarray, applied),
        expected={name: C @ vector for name, C in matrices.items()},
        magnitudes={name: C @ np.abs(vector) for name, C in absolutes.items()},
    )


def absolute(scale: float, J: np.ndarray, M: np.ndarray) -> np.ndarray:
    """The pullback with |J| instead of J, and with the norm of M instead of every entry of M."""
    norms = np.linalg.norm(M, axis=(1, 2), keepdims=True)
    return dense.pullback(scale, np.abs(J), np.broadcast_to(norms, M.shape))


ALL = tuple(name for name in CURVATURES if name in METRICS)


@pytest.mark.parametrize(
    ("likelihood", "names"),
    [
        ("categorical", ("true_fisher",)),
        *(pytest.param(likelihood, ALL, marks=pytest.mark.slow) for likelihood in LIKELIHOODS),
    ],
)
def test_the_error_of_a_product_is_within_its_rounding_bound(likelihood, names):
    """A product is a sum over paths through the network, and each path is rounded at most K times.

    Its error is therefore at most Kε/(1 − Kε) times the sum of the absolute values of the paths
    (Higham 2002, section 3.1). The test uses |J| for the sum over the paths within J. It uses the
    norm of M for |M|, since the error of the eigendecomposition of a symmetric root has this size.
    """
    found = products(likelihood, names)
    roundings = ROUNDINGS * np.finfo(np.float32).eps
    for name in names:
        bound = roundings / (1 - roundings) * np.linalg.norm(found.magnitudes[name])
        assert found.applied[name].dtype == np.float32
        assert np.linalg.norm(found.applied[name] - found.expected[name]) <= bound, name
        # The bound is not trivial: it is far below the product itself.
        assert bound <= 1e-3 * np.linalg.norm(found.expected[name]), name
