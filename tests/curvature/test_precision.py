"""Every product of a step asks for full precision.

The default precision of a GPU is below single precision.
"""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optax
import pytest
from jaxtyping import Array, PyTree

import curvature as cv
import models
from tests.selection import slow_but

OBJECTIVE = cv.Supervised(cv.Categorical())


class Whitened(cv.AbstractPullback):
    """A curvature whose `factor` computes a matrix product."""

    def factor(self, likelihood: cv.AbstractLoss, z: Array, y: Array, *, key: object) -> Array:
        del likelihood, y, key
        return jnp.outer(z, z) @ jnp.eye(z.size)


def natural_gradient(curvature: cv.AbstractCurvature, solver: lx.AbstractLinearSolver):
    return cv.NaturalGradient(
        OBJECTIVE,
        curvature=curvature,
        solver=solver,
        damping=cv.LevenbergMarquardt(1.0),
        search=cv.KLTrustRegion(0.01),
    )


OPTIMISERS = {
    "sample_space": natural_gradient(cv.SampledFisher(2), cv.SampleSpace()),
    "sample_space_covered": natural_gradient(cv.ExactFisher(), cv.SampleSpace()),
    "cg": natural_gradient(cv.GaussNewton(), cv.CG()),
    "cholesky": natural_gradient(cv.EmpiricalFisher(), lx.Cholesky()),
    "own_curvature": natural_gradient(Whitened(), cv.CG()),
    "proximal": cv.ProximalPoint(OBJECTIVE),
    "first_order": cv.FirstOrder(OBJECTIVE, optax.adam(1e-3)),
}


def products(optimiser: cv.AbstractOptimiser, model: PyTree) -> list[str]:
    """The products and convolutions of a step, as lines of the program that XLA compiles."""
    batch = jnp.ones((3, 8, 8)), jnp.arange(3)
    step = eqx.filter_jit(optimiser.step)
    lowered = step.lower(model, batch, optimiser.init(model), key=jax.random.key(0))
    text = lowered.as_text()
    return re.findall(r"stablehlo\.(?:dot_general|convolution).*", text)


@pytest.mark.parametrize("name", slow_but(["sample_space"], OPTIMISERS))
@pytest.mark.usefixtures("standard_promotion")
def test_every_product_is_in_full_precision(name: str):
    model = models.ConvNet((8, 8), 10, channels=(2,), key=jax.random.key(0))
    found = products(OPTIMISERS[name], model)
    assert len(found) >= 5  # the forward and backward products of two layers
    assert [line for line in found if "HIGHEST" not in line] == []


def test_a_precision_that_was_asked_for_is_kept():
    model = models.ConvNet((8, 8), 10, channels=(2,), key=jax.random.key(0))
    with jax.default_matmul_precision("default"):
        found = products(OPTIMISERS["cg"], model)
    of_the_model = [line for line in found if "convolution" in line]
    assert of_the_model
    assert [line for line in of_the_model if "HIGHEST" in line] == []
