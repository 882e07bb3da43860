"""The structures for models that use their layers in unusual ways."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
from tests.curvature import cases
from tests.curvature.structures.test_block_diagonal import owners
from tests.curvature.test_recognition import LAYERS, STACKS, TRICKS, case_named
from tests.curvature.tools import distance
from tests.selection import slow_but

QUICK = ["tied", "deep_checkpointed"]


@pytest.mark.parametrize("name", slow_but(QUICK, [*TRICKS, *STACKS, *LAYERS]))
def test_blocks_and_traces_are_exact(x64, name):
    """The sum of the eigenvalues s of EKFAC is the trace of C, in any orthonormal basis."""
    case = case_named(name)

    @eqx.filter_jit
    def run(model, batch):
        here = case.objective.linearise(model, batch, trainable=case.trainable)
        of = cv.GaussNewton()
        structures = [cv.BlockDiagonal(of), cv.EKFAC(of), cv.Diagonal(of)]
        return [C.operator(here).as_matrix() for C in (of, *structures)]

    C, by_block, corrected, diagonal = map(np.asarray, run(case.model, case.batch))
    # For stacked weights every slice is its own block, which `owners` does not know.
    if name not in STACKS and not name.startswith("deep"):
        owner = owners(case.model, case.trainable)
        assert distance(by_block, np.where(owner[:, None] == owner[None, :], C, 0)) <= 1e-10
    assert distance(np.diag(by_block), np.diag(C)) <= 1e-10
    assert distance(np.diag(diagonal), np.diag(C)) <= 1e-10
    assert np.isclose(np.trace(corrected), np.trace(C), rtol=1e-10)


class Listed(eqx.Module):
    """The stacked layers of `deep` as a list of layers, which are applied in a loop."""

    layers: list[eqx.nn.Linear]

    def __call__(self, x):
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return x


def listed(model):
    """The same model with a loop instead of the scan."""
    layers = model.layers[0]
    length = len(layers.weight)
    return Listed([jax.tree.map(lambda leaf, i=i: leaf[i], layers) for i in range(length)])


@pytest.mark.parametrize("structure", slow_but([cv.EKFAC], [cv.KFAC, cv.EKFAC, cv.BlockDiagonal]))
def test_a_scan_and_a_loop_have_the_same_blocks(x64, structure):
    stacked = case_named("deep")
    looped = cases.supervised(listed(stacked.model), "gaussian")
    length = len(looped.model.layers)

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


@pytest.mark.parametrize("structure", slow_but([cv.EKFAC], [cv.KFAC, cv.EKFAC]))
def test_a_scan_and_a_loop_train_alike(x64, structure):
    """Each slice recomputes its basis, and restarts its average of s, at the steps of its layer."""
    stacked = case_named("deep")
    opt = cv.NaturalGradient(
        stacked.objective, structure(cv.GaussNewton(), decay=0.9, every=4), damping=0.1
    )
    inputs, targets = stacked.batch
    rng, trained = np.random.default_rng(0), []
    noise = rng.normal(size=(9, *inputs.shape))
    for model in (stacked.model, listed(stacked.model)):
        state = opt.init(model, batch=stacked.batch)
        for more in noise:
            model, state, info = opt.step(model, (inputs + more, targets), state)
            assert info.accepted
        trained.append(model)
    of_scan, of_loop = listed(trained[0]), trained[1]
    for one, other in zip(of_scan.layers, of_loop.layers, strict=True):
        assert distance(one.weight, other.weight) <= 1e-10
        assert distance(one.bias, other.bias) <= 1e-10
