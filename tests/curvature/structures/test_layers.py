"""The structures of layers that are more than one matrix times vectors."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
from tests.curvature.structures import laws
from tests.curvature.test_recognition import CONVOLUTIONS, case, channels, grouped, logits, made
from tests.curvature.tools import distance
from tests.selection import slow_but

STRUCTURES = [cv.KFAC, cv.EKFAC, cv.BlockDiagonal, cv.Diagonal]


def operators(case, structures, of=None):
    """The structures of one curvature, by default of Gauss–Newton's."""
    of = cv.GaussNewton() if of is None else of

    @eqx.filter_jit
    def run(model, batch):
        here = case.objective.linearise(model, batch, trainable=case.trainable)
        return [structure(of).operator(here) for structure in structures]

    return run(case.model, case.batch)


@pytest.mark.parametrize("structure", slow_but([cv.EKFAC], [cv.KFAC, cv.EKFAC]))
def test_a_convolution_in_groups_has_the_blocks_of_its_groups_as_layers(x64, structure):
    layer = grouped(4, 6, 2, 2)
    halves = [
        eqx.tree_at(
            lambda c: (c.weight, c.bias), grouped(2, 3, 2, 1), (layer.weight[of], layer.bias[of])
        )
        for of in (slice(0, 3), slice(3, 6))
    ]
    together = case(lambda a, x: logits(a(channels(x))), layer)
    apart = case(
        lambda a, b, x: logits(jnp.concatenate([a(channels(x)[:2]), b(channels(x)[2:])])), *halves
    )
    rng = np.random.default_rng(0)
    vector = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), eqx.filter(apart.model, eqx.is_array)
    )
    (of_whole,), (of_halves,) = (operators(one, [structure]) for one in (together, apart))
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *vector.layers)
    (found,) = of_whole.mv(eqx.tree_at(lambda m: m.layers, vector, (joined,))).layers
    first, second = of_halves.mv(vector).layers
    for of_whole, *of_halves in zip(*map(jax.tree.leaves, (found, first, second)), strict=True):
        assert distance(of_whole, np.concatenate(of_halves)) <= 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_as_an_operator(x64, name, structure):
    (operator,) = operators(made(name), [structure])
    laws.check_operator(operator)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_correction_brings_it_nearer_to_the_blocks(x64, name):
    found = operators(made(name), [cv.KFAC, cv.EKFAC, cv.BlockDiagonal])
    plain, corrected, exact = (np.asarray(operator.as_matrix()) for operator in found)
    bound = np.linalg.norm(plain - exact) * (1 + 1e-10)
    assert np.linalg.norm(corrected - exact) <= bound
