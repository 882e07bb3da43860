"""784 pixels never become 784 × 784 numbers per example, nor all Jacobians at once."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jax.extend import core

import curvature as cv

PIXELS, CODE, EXAMPLES = 784, 2, 3


def sizes(jaxpr: core.Jaxpr) -> list[int]:
    """The sizes of all values computed in a program, and in the programs inside it."""
    found = []
    for equation in jaxpr.eqns:
        found += [value.aval.size for value in equation.outvars if hasattr(value.aval, "size")]
        for inner in jax.tree.leaves(
            equation.params, is_leaf=lambda p: isinstance(p, core.Jaxpr | core.ClosedJaxpr)
        ):
            if isinstance(inner, core.ClosedJaxpr):
                found += sizes(inner.jaxpr)
            elif isinstance(inner, core.Jaxpr):
                found += sizes(inner)
    return found


def largest(metric: cv.AbstractCurvature) -> int:
    """The largest value in linearising, making the operator, and one product."""
    model = eqx.nn.Linear(CODE, PIXELS, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    batch = jnp.ones((EXAMPLES, CODE)), jnp.ones((EXAMPLES, PIXELS))

    def product(params, batch, key):
        linearisation = cv.Supervised(cv.Bernoulli()).linearise(eqx.combine(params, static), batch)
        return metric.operator(linearisation, key=key).mv(params)

    return max(sizes(jax.make_jaxpr(product)(params, batch, jax.random.key(0)).jaxpr))


@pytest.mark.parametrize(
    "metric", [cv.GaussNewton(), cv.ExactFisher(), cv.EmpiricalFisher(), cv.SampledFisher(5)]
)
def test_a_product_holds_vectors_of_outputs_and_of_weights(metric):
    """At most as many numbers as the outputs, k samples of them, or the weights per example."""
    samples = getattr(metric, "samples", 1)
    assert largest(metric) <= EXAMPLES * PIXELS * max(samples, CODE)


def test_the_measure_sees_a_matrix_per_example():
    """As a divergence by autodiff makes one, and says so."""
    assert largest(cv.Divergence(cv.SquaredEuclidean())) >= EXAMPLES * PIXELS**2
