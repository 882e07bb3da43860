"""Every structure of models that do odd things with their layers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
from tests.curvature import cases
from tests.curvature.structures.test_block_diagonal import owners
from tests.curvature.test_recognition import STACKS, TRICKS, made
from tests.curvature.tools import distance
from tests.selection import slow_but

QUICK = ["tied", "deep_checkpointed"]


@pytest.mark.parametrize("name", slow_but(QUICK, [*TRICKS, *STACKS]))
def test_blocks_and_traces_are_exact(x64, name):
    """K-FAC's factors are those in whose bases EKFAC has its s, which adds up to the trace of C."""
    case = made(name)

    @eqx.filter_jit
    def run(model, batch):
        here = case.objective.linearise(model, batch, trainable=case.trainable)
        of = cv.GaussNewton()
        structures = [cv.BlockDiagonal(of), cv.EKFAC(of), cv.Diagonal(of)]
        return [C.operator(here).as_matrix() for C in (of, *structures)]

    C, by_block, corrected, diagonal = map(np.asarray, run(case.model, case.batch))
    if name not in STACKS:  # of stacked weights every slice is a block
        owner = owners(case.model, case.trainable)
        assert distance(by_block, np.where(owner[:, None] == owner[None, :], C, 0)) <= 1e-10
    assert distance(np.diag(by_block), np.diag(C)) <= 1e-10
    assert distance(np.diag(diagonal), np.diag(C)) <= 1e-10
    assert np.isclose(np.trace(corrected), np.trace(C), rtol=1e-10)


class Listed(eqx.Module):
    """The stacked layers of `deep`, one after another."""

    layers: list[eqx.nn.Linear]

    def __call__(self, x):
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return x


@pytest.mark.parametrize("structure", slow_but([cv.EKFAC], [cv.KFAC, cv.EKFAC, cv.BlockDiagonal]))
def test_a_scan_and_a_loop_have_the_same_blocks(x64, structure):
    stacked = made("deep")
    layers = stacked.model.layers[0]
    length = len(layers.weight)
    each = [jax.tree.map(lambda leaf, i=i: leaf[i], layers) for i in range(length)]
    looped = cases.supervised(Listed(each), "gaussian")

    @eqx.filter_jit
    def run(model, objective, batch):
        here = objective.linearise(model, batch)
        return structure(cv.GaussNewton()).operator(here)

    batch = stacked.batch
    of_scan = run(stacked.model, stacked.objective, batch)
    of_loop = run(looped.model, stacked.objective, batch)
    rng = np.random.default_rng(0)
    vector = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)),
        eqx.filter(stacked.model, eqx.is_inexact_array),
    )
    of_slices = Listed(
        [jax.tree.map(lambda leaf, i=i: leaf[i], vector.layers[0]) for i in range(length)]
    )
    split = of_loop.mv(eqx.filter(of_slices, eqx.is_inexact_array)).layers
    together = of_scan.mv(vector).layers[0]
    for i, layer in enumerate(split):
        assert distance(together.weight[i], layer.weight) <= 1e-12
        assert distance(together.bias[i], layer.bias) <= 1e-12
