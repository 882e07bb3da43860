"""`cv.BlockDiagonal`: the blocks of the dense C, and their solves."""

import functools

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest

import curvature as cv
from curvature.solvers import RightHandSide, Structured
from tests.curvature import cases
from tests.curvature.structures import laws
from tests.curvature.tools import distance
from tests.selection import slow_but

KEY = jax.random.key(3)


@functools.cache
def evaluated(model, likelihood, names):
    with jax.enable_x64(True):
        return laws.evaluated(model, likelihood, cv.BlockDiagonal, KEY, names=names)


def owners(model, trainable):
    """For each trainable number, the id of the module that holds it, without the library."""
    params = eqx.filter(model, trainable)
    numbers = [jnp.full(leaf.shape, j) for j, leaf in enumerate(jtu.tree_leaves(params))]
    labelled = jtu.tree_unflatten(jtu.tree_structure(params), numbers)
    owner = {}

    def visit(node, module):
        if isinstance(node, eqx.Module):
            module = id(node)
            children = [getattr(node, name) for name in vars(node)]
        elif isinstance(node, list | tuple):
            children = node
        elif isinstance(node, dict):
            children = node.values()
        else:
            if eqx.is_array(node):
                owner[int(node.ravel()[0])] = module if module is not None else id(node)
            return
        for child in children:
            visit(child, module)

    visit(labelled, None)
    flat = np.asarray(jfu.ravel_pytree(labelled)[0]).astype(int)
    return np.asarray([owner[j] for j in flat])


@pytest.mark.parametrize(("model", "likelihood", "names"), slow_but(laws.QUICK, laws.ROWS))
def test_it_has_the_blocks_of_the_dense_matrix(x64, model, likelihood, names):
    case = cases.MODELS[model](likelihood)
    owner = owners(case.model, case.trainable)
    same = owner[:, None] == owner[None, :]
    for name, (operator, C) in evaluated(model, likelihood, names).items():
        assert np.linalg.norm(C) > 0, name
        assert distance(laws.matrix_of(operator), np.where(same, C, 0)) <= 1e-10, name


@pytest.mark.parametrize(
    ("model", "name"),
    slow_but(
        [("tanh", "gauss_newton")],
        [("tanh", "gauss_newton"), ("convnet", "true_fisher"), ("transformer", "gauss_newton")],
    ),
)
def test_products_and_inverses_are_those_of_its_matrix(x64, model, name):
    operator, _ = evaluated(model, cases.ONLY_LIKELIHOOD.get(model, "categorical"), laws.TWO)[name]
    laws.check_operator(operator)


@functools.cache
def solutions(samples):
    """A function of the damping that returns the solutions from cotangents and from the vector.

    One program computes the solutions for all values of the damping.
    """
    case = cases.MODELS["tanh"]("categorical")

    @eqx.filter_jit
    def run(model, batch, damping):
        here = case.objective.linearise(model, batch)
        C = cv.BlockDiagonal(cv.SampledFisher(samples)).operator(here, key=KEY)
        by_rows = [block.rows.gradient() for block in C.blocks if hasattr(block, "rows")]
        assert any(gradient is not None for gradient in by_rows)
        damped = cv.damped(C, damping)
        return (
            Structured().solve(damped, RightHandSide(here, here.cotangents, None), None),
            Structured().solve(damped, RightHandSide(here, None, here.grad), None),
        )

    return lambda damping: run(case.model, case.batch, jnp.asarray(damping))


@pytest.mark.parametrize("damping", [1e-6, 1e-2, 10.0])
@pytest.mark.parametrize("samples", [1, 3])
def test_a_solve_from_cotangents_is_that_for_the_gradient(x64, samples, damping):
    """A solve for the gradient can use the output cotangents of the layers instead of a vector.

    The result must be that of the solve for the gradient as a vector.
    """
    found, wanted = solutions(samples)(damping)
    for name in ("direction", "slope", "metric", "squared_norm", "vector_norm"):
        got, other = (jfu.ravel_pytree(getattr(x, name))[0] for x in (found, wanted))
        np.testing.assert_allclose(got, other, rtol=1e-9, atol=1e-11 * jnp.max(jnp.abs(other)))
    assert found.residual < 1e-7


def test_with_first_examples_the_solve_uses_the_gradient_of_the_whole_batch(x64):
    case = cases.MODELS["tanh"]("categorical")
    opt = cv.NaturalGradient(
        case.objective, cv.FirstExamples(cv.BlockDiagonal(cv.EmpiricalFisher()), 3), damping=0.1
    )
    state = opt.init(case.model, batch=case.batch)
    new, _, _ = opt.step(case.model, case.batch, state)

    @eqx.filter_jit
    def system(model, batch):
        here = case.objective.linearise(model, batch)
        return opt.curvature.operator(here).as_matrix(), jfu.ravel_pytree(here.grad)[0]

    C, grad = system(case.model, case.batch)
    before, after = (jfu.ravel_pytree(eqx.filter(m, eqx.is_array))[0] for m in (case.model, new))
    step = np.linalg.solve(C + 0.1 * np.eye(grad.size), grad)
    np.testing.assert_allclose(before - after, step, rtol=1e-8, atol=1e-12)
