"""Rows A of C = AᵀA: their products, made layer by layer, against rows made one by one."""

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
import models
from curvature.rows import layout as layouts
from curvature.rows.layout import Way
from tests.curvature import cases
from tests.selection import slow_but

# One per way of making S: closed form of rank c − 1, targets of the data, drawn targets.
NAMES = ["exact_fisher", "empirical_fisher", "true_fisher"]


def flat(tree):
    return jfu.ravel_pytree(tree)[0]


def operators(case, likelihood):
    linearisation = case.objective.linearise(
        case.model, case.batch, trainable=case.trainable, key=case.key
    )
    for name in NAMES:
        curvature = cases.curvature(name, likelihood)
        yield name, curvature.operator(linearisation, key=jax.random.key(3))


def dense_rows(rows):
    """A, a row at a time by the pullback of the whole model: no structure is made use of."""
    return jax.vmap(lambda e: flat(rows.transpose_mv(e)))(jnp.eye(rows.size))


def check(operator):
    """Gram matrix, products and projection of an operator's rows."""
    cotangents = operator.linearisation.cotangents
    A, C, gram, mv, projected, g = jax.device_get(eqx.filter_jit(measure)(operator, cotangents))
    scale = np.abs(A).max() ** 2
    np.testing.assert_allclose(A.T @ A, C, atol=1e-12 * scale * len(A))
    np.testing.assert_allclose(gram, A @ A.T, atol=1e-12 * scale * A.shape[1])
    np.testing.assert_allclose(mv, A @ np.arange(A.shape[1]), atol=1e-10 * scale**0.5)
    share, squared = projected
    np.testing.assert_allclose(share, A @ g, atol=1e-12 * (1 + np.linalg.norm(A @ g)))
    np.testing.assert_allclose(squared, g @ g, rtol=1e-12)


def measure(operator, cotangents):
    rows = operator.rows(operator.layout(), cotangents)
    zeros, unravel = jfu.ravel_pytree(operator.linearisation.params)
    vector = unravel(jnp.arange(zeros.size, dtype=zeros.dtype))
    return (
        dense_rows(rows),
        operator.as_matrix(),
        rows.gram().as_symmetric_matrix(),
        rows.mv(vector),
        rows.project(),
        flat(operator.linearisation.grad),
    )


@pytest.mark.parametrize(("model", "likelihood"), cases.WITH_SLOW)
def test_products_of_rows_are_those_of_the_dense_rows(x64, model, likelihood):
    for _, operator in operators(cases.MODELS[model](likelihood), likelihood):
        check(operator)


def wide(n):
    """More rows than a block has, of layers of every way."""
    conv_key, head_key = jax.random.split(jax.random.key(0))
    convolution = eqx.nn.Conv2d(1, 2, 2, key=conv_key)
    head = eqx.nn.Linear(8, 3, key=head_key)
    model = eqx.nn.Sequential(
        [convolution, eqx.nn.Lambda(jnp.tanh), eqx.nn.Lambda(jnp.ravel), head]
    )
    rng = np.random.default_rng(0)
    batch = jnp.asarray(rng.normal(size=(n, 1, 3, 3))), jnp.asarray(rng.integers(3, size=n))
    linearisation = cv.Supervised(cv.Categorical()).linearise(model, batch)
    return cv.ExactFisher().operator(linearisation)


@pytest.mark.parametrize("n", slow_but([97], [1, 95, 97, 130]))
def test_blocks_fit_together_at_every_number_of_examples(x64, n):
    check(wide(n))


def test_one_block_where_blocks_do_not_pay(x64, monkeypatch):
    """Off a processor. What JAX itself asks is not this name, so that nothing else changes."""
    operator = wide(97)
    rows = operator.rows(operator.layout())
    in_blocks = rows.gram()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    whole = rows.gram()
    assert len(in_blocks.columns) > len(whole.columns) == 1
    expected = whole.columns[0]
    np.testing.assert_allclose(in_blocks.as_symmetric_matrix(), expected, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("build", [models.MLP, models.ConvNet, models.TransformerEncoder])
def test_gram_matrix_in_single_precision_at_a_size_of_use(build):
    """Each product of two rows is as near as their norms allow, whatever the shapes compile to."""
    model = build((8, 8), 10, key=jax.random.key(0))
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(96, 8, 8)).astype(np.float32)
    labels = rng.integers(10, size=96, dtype=np.int32)

    @eqx.filter_jit
    def gram(model, batch):
        linearisation = cv.Supervised(cv.Categorical()).linearise(model, batch)
        operator = cv.ExactFisher().operator(linearisation)
        return operator.rows(operator.layout()).gram().as_symmetric_matrix()

    found = np.asarray(gram(model, (images, labels)))
    with jax.enable_x64(True):
        wide_model, wide_images = jax.tree.map(
            lambda leaf: np.asarray(leaf, np.float64) if eqx.is_inexact_array(leaf) else leaf,
            (model, jnp.asarray(images)),
        )
        expected = np.asarray(gram(wide_model, (wide_images, labels)))
    assert found.dtype == np.float32
    norms = np.sqrt(np.diagonal(expected))
    # Some hundred roundings on a path through the network, most of which cancel.
    assert np.max(np.abs(found - expected) / np.outer(norms, norms)) < 50 * np.finfo("float32").eps


@pytest.mark.parametrize("held_bytes", slow_but([2_000], [0, 2_000]))
def test_rows_that_do_not_fit_are_made_anew(x64, monkeypatch, held_bytes):
    """With room for nothing, or for some of the weights and a few rows at a time."""
    monkeypatch.setattr(layouts, "HELD_BYTES", held_bytes)
    monkeypatch.setattr("curvature.rows.build.HELD_BYTES", held_bytes)
    operator = wide(20)
    assert Way.GENERAL in operator.layout().ways
    check(operator)


class Image(eqx.Module):
    """A convolution with options, and as much of its result as is asked for."""

    layer: eqx.nn.Conv

    def __call__(self, x):
        return jnp.ravel(jnp.tanh(self.layer(x)))[:4]


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2, "padding": 1},
        {"dilation": 2},
        {"padding": "SAME", "use_bias": False},
        {"padding": ((2, 0), (0, 1)), "stride": (1, 2)},
    ],
)
def test_convolutions_by_patches(x64, options):
    layer = eqx.nn.Conv2d(2, 3, (2, 3), **options, key=jax.random.key(0))
    check_recognised(Image(layer), (2, 6, 7), {Way.HELD})


@pytest.mark.parametrize("dimensions", [1, 3])
def test_convolutions_of_other_dimensions(x64, dimensions):
    layer = eqx.nn.Conv(dimensions, 2, 2, 2, key=jax.random.key(0))
    check_recognised(Image(layer), (2, *(3,) * dimensions), {Way.HELD})


def test_a_grouped_convolution_takes_the_general_way(x64):
    layer = eqx.nn.Conv2d(2, 2, 2, groups=2, use_bias=False, key=jax.random.key(0))
    check_recognised(Image(layer), (2, 3, 3), {Way.GENERAL})


def test_a_transposed_convolution(x64):
    layer = eqx.nn.ConvTranspose2d(2, 2, 2, stride=2, use_bias=False, key=jax.random.key(0))
    operator = of_model(Image(layer), (2, 3, 3))
    check(operator)


def of_model(model, shape, n=5):
    rng = np.random.default_rng(0)
    batch = jnp.asarray(rng.normal(size=(n, *shape))), jnp.asarray(rng.integers(4, size=n))
    linearisation = cv.Supervised(cv.Categorical()).linearise(model, batch)
    return cv.ExactFisher().operator(linearisation)


def check_recognised(model, shape, ways):
    operator = of_model(model, shape)
    assert set(operator.layout().ways) == ways
    check(operator)
