import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import TransformerDecoder

X = jnp.linspace(0, 1, 64).reshape(8, 8)
TOKENS = jnp.arange(8) * 3 % 10


@pytest.fixture(params=["mlp", "transformer", "decoder"])
def name(request):
    return request.param


def x_of(model):
    return TOKENS if isinstance(model, TransformerDecoder) else X


@eqx.filter_jit
def output(model, key=None):
    return model(x_of(model), key=key)


@pytest.fixture
def model(built, name):
    return built(name, dropout=0.5, depth=1)


def test_dropout_depends_on_the_key_alone(model):
    first, again, other = (output(model, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert jnp.all(first != other)


def test_inference_is_the_model_without_dropout(built, name, model):
    without = output(built(name, depth=1))
    assert jnp.all(output(model, jax.random.key(0)) != without)
    np.testing.assert_array_equal(output(eqx.nn.inference_mode(model)), without)


def test_dropout_needs_a_key_in_training(model):
    with pytest.raises(RuntimeError, match="requires a key"):
        eqx.filter_eval_shape(model, x_of(model))


def test_a_key_changes_nothing_without_dropout(built, name):
    model = built(name, depth=1)
    np.testing.assert_array_equal(output(model), output(model, jax.random.key(0)))


def test_dropout_does_not_change_the_mean_of_an_mlp(build):
    # With one hidden layer the outputs are linear in the activations that dropout zeroes or
    # divides by 1 − p, so their mean is the output without dropout.
    model = build("mlp", depth=1, dropout=0.3)
    keys = jax.random.split(jax.random.key(0), 4000)
    dropped = jax.vmap(lambda key: output(model, key))(keys)
    standard_error = jnp.std(dropped, axis=0) / len(keys) ** 0.5
    expected = output(eqx.nn.inference_mode(model))
    assert jnp.all(jnp.abs(jnp.mean(dropped, axis=0) - expected) < 4 * standard_error)
