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
    """For each trainable number, which module it is in: written by hand, by identity."""
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
        assert distance(operator.as_matrix(), np.where(same, C, 0)) <= 1e-10, name


@pytest.mark.parametrize(
    ("model", "name"),
    slow_but(
        [("tanh", "gauss_newton")],
        [("tanh", "gauss_newton"), ("convnet", "true_fisher"), ("transformer", "gauss_newton")],
    ),
)
def test_as_an_operator(x64, model, name):
    operator, _ = evaluated(model, cases.ONE.get(model, "categorical"), laws.TWO)[name]
    laws.check_operator(operator)
