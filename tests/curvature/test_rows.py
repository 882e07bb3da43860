"""The rows A of C = AᵀA: products that are computed layer by layer, against dense rows."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
import models
from curvature.rows import layout as layouts
from curvature.rows.layout import Way
from tests.curvature import cases
from tests.curvature.cases import supervised
from tests.curvature.tools import check_rows, float64, linearised, symmetric, ways
from tests.selection import slow_but

MODELS = [(name, cases.ONLY_LIKELIHOOD.get(name, "categorical")) for name in cases.MODELS]
QUICK = [("several_terms", "categorical")]


@pytest.mark.parametrize(("model", "likelihood"), slow_but(QUICK, MODELS))
def test_products_of_rows_are_those_of_the_dense_rows(x64, model, likelihood):
    check_rows(cases.MODELS[model](likelihood), matrices=True)


def wide(n):
    """A case with a convolution and a dense layer; for large n it has more rows than one block."""
    conv_key, head_key = jax.random.split(jax.random.key(0))
    convolution = eqx.nn.Conv2d(1, 2, 2, key=conv_key)
    head = eqx.nn.Linear(8, 3, key=head_key)
    model = eqx.nn.Sequential(
        [convolution, eqx.nn.Lambda(jnp.tanh), eqx.nn.Lambda(jnp.ravel), head]
    )
    return supervised(model, "categorical", inputs=(1, 3, 3), n=n)


@pytest.mark.parametrize("n", slow_but([97], [1, 95, 97, 130]))
def test_blocks_fit_together_at_every_number_of_examples(x64, n):
    check_rows(wide(n))


@eqx.filter_jit
def gram(model, batch, curvature, backend="cpu"):
    del backend  # another value causes a new compilation
    C = curvature.operator(linearised(model, batch))
    return C.rows(C.layout()).gram()


def test_one_block_has_the_numbers_of_several_blocks(x64, monkeypatch):
    """Devices other than CPUs use one block.

    The test changes only the width of the blocks. JAX still compiles for the CPU.
    """
    case = wide(150)
    in_blocks = gram(case.model, case.batch, cv.EmpiricalFisher())
    assert len(in_blocks.columns) > 1
    monkeypatch.setattr("curvature.rows.width.block_width", lambda size: 2048)
    monkeypatch.setattr("curvature.rows.rows.block_width", lambda size: 2048)
    whole = gram(case.model, case.batch, cv.EmpiricalFisher(), "gpu")
    assert len(whole.columns) == 1
    np.testing.assert_allclose(symmetric(in_blocks), whole.columns[0], atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("build", [models.MLP, models.ConvNet, models.TransformerEncoder])
def test_gram_matrix_in_single_precision_for_networks_of_ordinary_size(build):
    """The error of each product of two rows is a few units of roundoff of the rows' norms."""
    model = build((8, 8), 10, key=jax.random.key(0))
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(size=(96, 8, 8)), jnp.float32)
    labels = jnp.asarray(rng.integers(10, size=96, dtype=np.int32))
    found = symmetric(gram(model, (images, labels), cv.ExactFisher()))
    with jax.enable_x64(True):
        wide_model, wide_images = float64((model, images))
        expected = symmetric(gram(wide_model, (wide_images, labels), cv.ExactFisher()))
    norms = np.sqrt(np.diagonal(expected))
    # A path through the network has some hundred roundings, most of which cancel.
    assert np.max(np.abs(found - expected) / np.outer(norms, norms)) < 50 * np.finfo("float32").eps


@pytest.mark.parametrize("held_bytes", slow_but([2_000], [0, 2_000]))
def test_rows_that_do_not_fit_in_memory_are_recomputed(x64, monkeypatch, held_bytes):
    """There is memory for no rows, or for those of some weights and a few rows at a time."""
    monkeypatch.setattr(layouts, "HELD_BYTES", held_bytes)
    monkeypatch.setattr("curvature.rows.build.HELD_BYTES", held_bytes)
    assert Way.GENERAL in ways(wide(20))
    check_rows(wide(20))


class Image(eqx.Module):
    """A convolution with options, and the first four entries of its result."""

    layer: eqx.nn.Conv

    def __call__(self, x):
        return jnp.ravel(jnp.tanh(self.layer(x)))[:4]


# Dimensions, channels in and out, kernel; options; shape of the inputs; expected `Way`.
CONVOLUTIONS = {
    "stride": ((2, 2, 3, (2, 3)), {"stride": 2, "padding": 1}, (2, 6, 7), Way.HELD),
    "dilation": ((2, 2, 3, (2, 3)), {"dilation": 2}, (2, 6, 7), Way.HELD),
    "same": ((2, 2, 3, (2, 3)), {"padding": "SAME", "use_bias": False}, (2, 6, 7), Way.HELD),
    "uneven": (
        *((2, 2, 3, (2, 3)), {"padding": ((2, 0), (0, 1)), "stride": (1, 2)}),
        *((2, 6, 7), Way.HELD),
    ),
    "one_dimension": ((1, 2, 2, 2), {}, (2, 3), Way.HELD),
    "three_dimensions": ((3, 2, 2, 2), {}, (2, 3, 3, 3), Way.HELD),
    "grouped": ((2, 2, 2, 2), {"groups": 2, "use_bias": False}, (2, 3, 3), Way.HELD),
}


def convolution(name, kind=eqx.nn.Conv):
    sizes, options, shape, _ = CONVOLUTIONS[name]
    model = Image(kind(*sizes, **options, key=jax.random.key(0)))
    return supervised(model, "categorical", inputs=shape, outputs=(4,), n=4)


@pytest.mark.parametrize("name", slow_but(["uneven"], CONVOLUTIONS))
def test_rows_of_convolutions_with_options(x64, name):
    case = convolution(name)
    assert set(ways(case)) == {CONVOLUTIONS[name][-1]}
    check_rows(case)


def test_rows_of_a_transposed_convolution(x64):
    check_rows(convolution("one_dimension", eqx.nn.ConvTranspose))
