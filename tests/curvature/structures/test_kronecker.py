"""`cv.KFAC` and `cv.EKFAC`: their operators, and the cases in which they are exact."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
from tests.curvature import cases
from tests.curvature.structures import laws
from tests.curvature.tools import distance
from tests.curvature.written import Line
from tests.selection import slow_but

KEY = jax.random.key(3)
STRUCTURES = {"kfac": cv.KFAC, "ekfac": cv.EKFAC}


@functools.cache
def evaluated(structure, model, names=laws.TWO):
    likelihood = cases.ONLY_LIKELIHOOD.get(model, "categorical")
    with jax.enable_x64(True):
        return laws.evaluated(model, likelihood, structure, KEY, names=names)


QUICK = [("tanh", "ekfac")]
# Models with several terms, whose blocks are sums of products, are tested with both structures. The
# other models are tested with one structure.
OTHERS = [("tanh", "kfac"), ("several_terms", "kfac"), ("several_terms", "ekfac")]
OTHERS += [(model, "kfac") for model in ("convnet", "frozen", "rows")]
OTHERS += [(model, "ekfac") for model in ("transformer", "called_twice", "dropout", "autoencoder")]


@pytest.mark.parametrize(("model", "structure"), slow_but(QUICK, [*QUICK, *OTHERS]))
def test_products_and_inverses_are_those_of_its_matrix(x64, model, structure):
    for name, (operator, C) in evaluated(STRUCTURES[structure], model).items():
        matrix = laws.check_operator(operator)
        # s is a sum of squares of rotated rows, so the trace of EKFAC is the trace of C.
        if structure == "ekfac":
            assert np.isclose(np.trace(matrix), np.trace(C), rtol=1e-10), name


TANH = ("tanh", laws.TWO)
ALL = [("tanh", laws.PULLBACKS), ("convnet", laws.TWO)]


@pytest.mark.parametrize(("model", "names"), slow_but([TANH], [TANH, *ALL]))
def test_ekfac_is_at_least_as_near_to_the_exact_blocks_as_kfac(x64, model, names):
    structures = cv.KFAC, cv.EKFAC, cv.BlockDiagonal
    plain, corrected, blocks = (evaluated(C, model, names) for C in structures)
    for name, (exact, _) in blocks.items():
        exact = laws.matrix_of(exact)
        of_plain, of_corrected = (
            np.linalg.norm(laws.matrix_of(found[name][0]) - exact) for found in (plain, corrected)
        )
        assert of_corrected <= of_plain * (1 + 1e-10), name


class Deep(eqx.Module):
    """A deep linear net with biases along a sequence; `pooled` averages over the sequence."""

    first: eqx.nn.Linear
    second: eqx.nn.Linear
    pooled: bool = eqx.field(static=True)

    def __init__(self, pooled):
        a, b = jax.random.split(jax.random.key(0))
        self.first, self.second = eqx.nn.Linear(3, 4, key=a), eqx.nn.Linear(4, 2, key=b)
        self.pooled = pooled

    def __call__(self, x):
        z = jax.vmap(self.second)(jax.vmap(self.first)(x))
        return jnp.mean(z, axis=0) if self.pooled else z


def blocks(matrix, sizes):
    ends = np.cumsum(sizes)
    return [
        matrix[end - size : end, end - size : end] for end, size in zip(ends, sizes, strict=True)
    ]


@pytest.mark.parametrize("structure", slow_but(["ekfac"], STRUCTURES))
@pytest.mark.parametrize("pooled", [False, True])
def test_it_is_exact_for_a_deep_linear_net(x64, structure, pooled):
    """The net has T = 3 positions; the other approximation is not exact (control)."""
    outputs = (2,) if pooled else (3, 2)
    case = cases.supervised(Deep(pooled), "gaussian", inputs=(3, 3), outputs=outputs)
    right, wrong = ("reduce", "expand") if pooled else ("expand", "reduce")

    @eqx.filter_jit
    def run(model, batch):
        here, of = case.objective.linearise(model, batch), cv.GaussNewton()
        structures = [STRUCTURES[structure](of, approximation=name) for name in (right, wrong)]
        return [C.operator(here).as_matrix() for C in (of, *structures)]

    C, found, other = (blocks(matrix, [16, 10]) for matrix in run(case.model, case.batch))
    for exact, block, of_other in zip(C, found, other, strict=True):
        assert distance(block, exact) <= 1e-12
        assert distance(of_other, exact) > 1e-3


@pytest.mark.parametrize("structure", slow_but(["ekfac"], STRUCTURES))
def test_a_model_without_layers_has_a_diagonal(structure):
    """w·x is no product of a matrix with vectors, and w is larger than `max_block`."""
    model, batch = Line(jnp.ones(5)), (jnp.full((4, 5), 0.1), jnp.zeros((4, 1)))
    curvature = STRUCTURES[structure](cv.GaussNewton(), max_block=4)
    opt = cv.NaturalGradient(cv.Supervised(cv.Gaussian()), curvature, damping=1.0)
    new, _, info = opt.step(model, batch, opt.init(model, batch=batch))
    assert info.accepted
    # C is the diagonal of 0.01 everywhere, and the gradient is 0.5 · 0.1.
    np.testing.assert_allclose(new.w, 1 - 0.05 / 1.01, rtol=1e-5)


@pytest.mark.parametrize("structure", slow_but(["kfac"], STRUCTURES))
def test_it_is_exact_for_one_example_at_one_position(x64, structure):
    case = cases.supervised(cases.mlp(jnp.tanh), "categorical", n=1)

    @eqx.filter_jit
    def run(model, batch):
        here, of = case.objective.linearise(model, batch), cv.EmpiricalFisher()
        structures = STRUCTURES[structure](of), cv.BlockDiagonal(of)
        return [C.operator(here).as_matrix() for C in structures]

    found, expected = run(case.model, case.batch)
    assert distance(found, expected) <= 1e-12
