import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

X = jnp.linspace(0, 1, 64).reshape(8, 8)


@pytest.fixture(params=["mlp", "transformer"])
def name(request):
    return request.param


@pytest.fixture
def model(build, name):
    return build(name, dropout=0.5)


def test_follows_the_key(model):
    first, again, other = (model(X, key=jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert jnp.all(first != other)


def test_inference_is_the_model_without_dropout(build, name, model):
    without = build(name)(X)
    assert jnp.all(model(X, key=jax.random.key(0)) != without)
    np.testing.assert_array_equal(eqx.nn.inference_mode(model)(X), without)


def test_needs_a_key_in_training(model):
    with pytest.raises(RuntimeError, match="requires a key"):
        model(X)


def test_a_key_changes_nothing_without_dropout(build, name):
    model = build(name)
    np.testing.assert_array_equal(model(X), model(X, key=jax.random.key(0)))


def test_mlp_keeps_the_mean(build):
    # With one hidden layer the outputs are linear in what dropout scales by 1/(1-p).
    model = build("mlp", depth=1, dropout=0.3)
    keys = jax.random.split(jax.random.key(0), 4000)
    dropped = jax.vmap(lambda key: model(X, key=key))(keys)
    standard_error = jnp.std(dropped, axis=0) / len(keys) ** 0.5
    expected = eqx.nn.inference_mode(model)(X)
    assert jnp.all(jnp.abs(jnp.mean(dropped, axis=0) - expected) < 4 * standard_error)
