"""Products with C and steps in sample space do not hold large intermediate arrays.

Such arrays would be c × c numbers per example for c outputs, or the Jacobians of all examples.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jax.extend import core

import curvature as cv

PIXELS, CODE, EXAMPLES = 784, 2, 3


def sizes(jaxpr: core.Jaxpr) -> list[int]:
    """The sizes of all values that a program and its inner programs compute."""
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
    """The size of the largest value in a linearisation, its operator and one product."""
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
    """No value is larger than k samples of the outputs, or than the weights for every example."""
    samples = getattr(metric, "samples", 1)
    assert largest(metric) <= EXAMPLES * PIXELS * max(samples, CODE)


def test_control_a_divergence_holds_a_matrix_per_example():
    """This is the control: `Divergence` documents that it holds c × c numbers per example."""
    assert largest(cv.Divergence(cv.SquaredEuclidean())) >= EXAMPLES * PIXELS**2


@pytest.mark.parametrize("metric", [cv.EmpiricalFisher(), cv.SampledFisher(1)])
def test_a_step_in_sample_space_holds_no_rows_of_dense_layers(metric):
    """No value is larger than the weights or the inputs; the rows are 40 times the weights."""
    examples = 40
    model = eqx.nn.MLP(PIXELS, 10, 32, 1, key=jax.random.key(0))
    optimiser = cv.NaturalGradient(
        cv.Supervised(cv.Categorical()), curvature=metric, solver=cv.SampleSpace()
    )
    arrays, static = eqx.partition((model, optimiser.init(model)), eqx.is_array)

    def step(arrays, batch, key):
        model, state = eqx.combine(arrays, static)
        return eqx.filter(optimiser.step(model, batch, state, key=key), eqx.is_array)

    batch = jnp.ones((examples, PIXELS)), jnp.zeros(examples, int)
    found = sizes(jax.make_jaxpr(step)(arrays, batch, jax.random.key(0)).jaxpr)
    biases_held = examples * 32
    assert max(found) <= max(PIXELS * 32, examples * PIXELS, biases_held)
