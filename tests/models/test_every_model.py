"""Laws that hold for every model in `conf/model`."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import ClassifyingAutoencoder


def arrays(model):
    return jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))


def outputs(model, x):
    """All outputs of a model for one example, as one vector."""
    if isinstance(model, ClassifyingAutoencoder):
        return jnp.concatenate([model(x), model.classify(x)])
    return model(x)


# A transformer block takes long to compile, and a single one has all kinds of weights.
SIZES = {"transformer": {"depth": 1}, "decoder": {"depth": 1, "width": 32}}


@eqx.filter_jit
def numbers(model, inputs):
    """The outputs by `vmap`, a gradient of a loss of these outputs, and the outputs by a loop."""

    def loss(model):
        batched = jax.vmap(lambda x: outputs(model, x))(inputs)
        return jnp.mean(batched**2), batched

    gradient, batched = eqx.filter_grad(loss, has_aux=True)(model)
    return batched, gradient, jax.lax.map(lambda x: outputs(model, x), inputs)


@pytest.fixture
def model(built, name):
    return built(name, **SIZES.get(name, {}))


@pytest.fixture
def evaluated(model, example, name):
    x = example(name)
    random = np.random.default_rng(1).random((5, *x.shape), np.float32)
    # The five sequences of eight tokens contain every class: an unused one would have no gradient.
    inputs = random if x.dtype == "float32" else np.arange(40).reshape(5, 8) * 3 % 10
    return numbers(model, inputs.astype(x.dtype))


@pytest.mark.parametrize("image", [(8, 8), (28, 28)], ids=["digits", "mnist"])
def test_one_vector_per_example(build, example, name, image):
    x = example(name, image)
    model = eqx.filter_eval_shape(build, name, x.shape)
    shape = (math.prod(image) if "autoencoder" in name else 10,)
    # The decoder has one vector per token.
    shape = (*x.shape, 10) if name == "decoder" else shape
    assert eqx.filter_eval_shape(model, x) == jax.ShapeDtypeStruct(shape, jnp.float32)


def test_vmap_agrees_with_a_loop(evaluated):
    batched, _, looped = evaluated
    np.testing.assert_allclose(batched, looped, rtol=1e-5, atol=1e-6)


def test_every_weight_has_a_finite_gradient(model, evaluated):
    gradients = arrays(evaluated[1])
    assert len(gradients) == len(arrays(model))
    for leaf in gradients:
        assert np.all(np.isfinite(leaf))
        assert np.any(leaf)


def test_initial_outputs_are_of_order_one(evaluated):
    assert 0.05 < np.std(evaluated[0]) < 5


def test_weights_follow_the_key(build, built, name):
    sizes = SIZES.get(name, {})
    first, other = built(name, **sizes), build(name, seed=1, **sizes)
    assert eqx.tree_equal(first, build(name, **sizes))
    assert not eqx.tree_equal(first, other)


def test_with_x64_weights_and_outputs_are_float64(x64, build, example, name):
    model = eqx.filter_eval_shape(build, name)
    leaves = [leaf for leaf in jax.tree.leaves(model) if isinstance(leaf, jax.ShapeDtypeStruct)]
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float64")}
    z = eqx.filter_eval_shape(outputs, model, example(name, dtype="float64"))
    assert z.dtype == jnp.float64
