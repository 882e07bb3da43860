"""Laws that hold for one of the models only."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models

KEY = jax.random.key(0)


def make_model(model, *args, **kwargs):
    """The model; jitted, because outside of a program JAX compiles each operation separately."""
    return eqx.filter_jit(lambda key: model(*args, key=key, **kwargs))(KEY)


def make_shapes(model, *args, **kwargs):
    """The model with shapes instead of arrays."""
    return eqx.filter_eval_shape(lambda key: model(*args, key=key, **kwargs), KEY)


def sizes(dense):
    return [dense.layers[0].in_features, *(layer.out_features for layer in dense.layers)]


def is_zero(tree):
    return all(bool(jnp.all(leaf == 0)) for leaf in jax.tree.leaves(tree))


def test_mlp_sizes():
    assert sizes(make_shapes(models.MLP, (3, 4), 5, width=7, depth=2).layers) == [12, 7, 7, 5]


def test_mlp_with_a_width_for_each_layer():
    assert sizes(make_shapes(models.MLP, (4,), 5, width=[7, 6], depth=2).layers) == [4, 7, 6, 5]
    equal = make_model(models.MLP, (4,), 5, width=[7, 7], depth=2)
    assert eqx.tree_equal(equal, make_model(models.MLP, (4,), 5, width=7, depth=2))


def test_mlp_of_depth_0_is_linear():
    model = make_model(models.MLP, (3,), 2, depth=0)
    (layer,) = model.layers.layers
    x = jnp.array([1.0, -2.0, 3.0])
    np.testing.assert_allclose(model(x), layer.weight @ x + layer.bias)


def test_mlp_by_hand(x64):
    model = make_model(models.MLP, (2, 2), 3, width=5, depth=1, activation=jnp.tanh)
    first, second = ({"w": np.array(x.weight), "b": np.array(x.bias)} for x in model.layers.layers)
    x = np.array([[0.5, -1.0], [2.0, 0.1]])
    expected = second["w"] @ np.tanh(first["w"] @ x.ravel() + first["b"]) + second["b"]
    np.testing.assert_allclose(model(jnp.asarray(x)), expected, rtol=1e-12)


def test_initial_weights_have_the_variance_of_lecun():
    layer = make_model(models.MLP, (400,), 1, width=1000, depth=1).layers.layers[0]
    n = layer.weight.size
    # A variance estimated from n normal numbers has a relative standard error of √(2/n).
    assert abs(float(jnp.var(layer.weight)) * 400 - 1) < 4 * (2 / n) ** 0.5
    assert is_zero(layer.bias)


@pytest.mark.parametrize("input_shape", [(7, 5), (1, 1), (3, 9, 10)])
def test_convnet_takes_any_image(input_shape):
    def initial_output(x):
        return models.ConvNet(input_shape, 4, channels=[2, 3, 4], key=KEY)(x)

    assert jax.eval_shape(initial_output, jnp.ones(input_shape)).shape == (4,)


def test_convnet_adds_the_channel_to_an_image_without_one():
    x = jax.random.uniform(KEY, (4, 4))
    flat, stacked = (make_model(models.ConvNet, shape, 4) for shape in [(4, 4), (1, 4, 4)])
    apply = eqx.filter_jit(lambda model, x: model(x))
    np.testing.assert_array_equal(apply(flat, x), apply(stacked, x[None]))


def test_convnet_refuses_inputs_that_are_no_images():
    with pytest.raises(ValueError, match=r"`ConvNet\(input_shape=...\)` must be .*, got \(10,\)"):
        models.ConvNet((10,), 4, key=KEY)


@pytest.mark.parametrize("encoder", [(9,), (9, 5), (9, 5, 2)])
def test_the_decoder_of_an_autoencoder_mirrors_its_encoder(encoder):
    model = make_shapes(models.Autoencoder, (3, 4), 10, sizes=encoder)
    assert sizes(model.encoder) == [12, *encoder]
    assert sizes(model.decoder) == [*reversed(encoder), 12]
    code = eqx.filter_eval_shape(lambda model, x: model.encode(x), model, jnp.ones((3, 4)))
    assert code.shape == (encoder[-1],)


def test_autoencoder_code_is_linear():
    model = make_model(models.Autoencoder, (4,), 10, sizes=(3,))
    x = jnp.arange(4.0)
    np.testing.assert_allclose(model.encode(2 * x), 2 * model.encode(x), rtol=1e-6)


def test_classifying_autoencoder_shares_its_encoder():
    model = make_model(models.ClassifyingAutoencoder, (2, 2), 3, sizes=(5, 2))
    x = jnp.arange(4.0).reshape(2, 2)
    np.testing.assert_array_equal(models.reconstruct(model, x), model.autoencoder(x).reshape(2, 2))
    np.testing.assert_array_equal(
        models.classify(model, x), model.head(model.autoencoder.encode(x))
    )

    def gradient(outputs):
        return eqx.filter_jit(eqx.filter_grad(lambda model: jnp.sum(outputs(model, x))))(model)

    reconstruction, label = gradient(models.reconstruct), gradient(models.classify)
    assert is_zero(reconstruction.head)
    assert not is_zero(reconstruction.autoencoder.encoder)
    assert is_zero(label.autoencoder.decoder)
    assert not is_zero(label.autoencoder.encoder)


def test_without_positions_a_transformer_ignores_the_order_of_tokens():
    model = make_model(models.TransformerEncoder, (6, 5), 4, depth=1)
    blind = eqx.tree_at(lambda model: model.positions, model, jnp.zeros_like(model.positions))
    model, blind = eqx.filter_jit(model), eqx.filter_jit(blind)
    x = jax.random.normal(KEY, (6, 5))
    np.testing.assert_allclose(blind(x), blind(x[::-1]), rtol=1e-4, atol=1e-5)
    assert jnp.max(jnp.abs(model(x) - model(x[::-1]))) > 1e-2


def test_transformer_tokens_attend_to_each_other():
    model = make_model(models.TransformerEncoder, (6, 5), 4, depth=1)
    block = model.blocks[0]
    jacobian = jax.jit(jax.jacrev(block))(jax.random.normal(KEY, (6, 32)))
    # Of the 6 × 6 blocks of the Jacobian, a perceptron alone would leave only the diagonal.
    assert jnp.all(jnp.linalg.norm(jacobian, axis=(1, 3)) > 0)


DECODER = {"width": 12, "depth": 2, "heads": 3}


def test_decoder_outputs_do_not_depend_on_later_tokens():
    model = eqx.filter_jit(make_model(models.TransformerDecoder, (7,), 5, **DECODER))
    x = np.array([0, 3, 1, 4, 4, 2, 0])
    outputs = model(jnp.asarray(x))
    for t in range(7):
        changed = model(jnp.asarray(np.where(np.arange(7) > t, (x + 1) % 5, x)))
        np.testing.assert_array_equal(changed[: t + 1], outputs[: t + 1])
        assert np.all(np.max(np.abs(changed[t + 1 :] - outputs[t + 1 :]), axis=1) > 1e-3)


def test_decoder_by_hand(x64):
    """Compared with NumPy, token by token; a token attends only to itself and to earlier ones."""
    model = make_model(models.TransformerDecoder, (4,), 5, width=6, depth=2, heads=3)
    x = np.array([4, 0, 2, 2])

    def normed(norm, v):
        scaled = (v - v.mean()) / np.sqrt(v.var() + 1e-5)
        return scaled * np.asarray(norm.weight) + np.asarray(norm.bias)

    def gelu(v):
        return v / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))

    def attended(attention, tokens, t):
        query, keys, values = (
            np.asarray(projection.weight) @ tokens[: t + 1].T
            for projection in (attention.query_proj, attention.key_proj, attention.value_proj)
        )
        heads = []
        for head in (slice(0, 2), slice(2, 4), slice(4, 6)):
            scores = np.exp(query[head, t] @ keys[head] / np.sqrt(2))
            heads.append(values[head] @ (scores / scores.sum()))
        return np.asarray(attention.output_proj.weight) @ np.concatenate(heads)

    tokens = np.asarray(model.embedding.weight)[x] + np.asarray(model.positions)
    for block in model.blocks:
        first, second = block.perceptron.layers
        normal = np.stack([normed(block.attention_norm, v) for v in tokens])
        tokens = tokens + [attended(block.attention, normal, t) for t in range(4)]
        normal = np.stack([normed(block.perceptron_norm, v) for v in tokens])
        inner = gelu(normal @ np.asarray(first.weight).T + np.asarray(first.bias))
        tokens = tokens + inner @ np.asarray(second.weight).T + np.asarray(second.bias)
    normal = np.stack([normed(model.norm, v) for v in tokens])
    expected = normal @ np.asarray(model.head.weight).T + np.asarray(model.head.bias)
    np.testing.assert_allclose(eqx.filter_jit(model)(jnp.asarray(x)), expected, rtol=1e-10)


def test_the_initial_loss_of_a_decoder_is_near_that_of_guessing():
    """With c equal logits the loss is log c; normal logits of variance 1 add ½ to it."""
    model = make_model(models.TransformerDecoder, (32,), 90, width=64, depth=1)
    tokens = jax.random.randint(KEY, (32,), 0, 90)
    log_p = jax.nn.log_softmax(eqx.filter_jit(model)(tokens))
    assert abs(-jnp.mean(log_p) - jnp.log(90) - 0.5) < 0.2


def test_transformer_refuses_single_numbers():
    with pytest.raises(ValueError, match=r"must be \(tokens, \.\.\.\), got \(\)"):
        models.TransformerEncoder((), 4, key=KEY)


def test_decoder_refuses_inputs_that_are_no_sequence_of_tokens():
    message = r"`TransformerDecoder\(input_shape=...\)` must be \(context,\), .*, got \(8, 8\)"
    with pytest.raises(ValueError, match=message):
        models.TransformerDecoder((8, 8), 4, key=KEY)


@pytest.mark.parametrize(
    ("model", "hyper_parameters", "message"),
    [
        ("MLP", {"width": 0}, r"`MLP\(width=...\)` must be an integer of at least 1, got 0\."),
        ("MLP", {"depth": -1}, r"`MLP\(depth=...\)` must be an integer of at least 0, got -1\."),
        ("MLP", {"dropout": 1.0}, r"`MLP\(dropout=...\)` must be in \[0, 1\), got 1\.0\."),
        ("MLP", {"dropout": float("nan")}, r"`MLP\(dropout=...\)` must be in \[0, 1\), got nan\."),
        ("ConvNet", {"channels": [4, 0]}, r"`ConvNet\(channels=...\)` must be .* got 0\."),
        ("ConvNet", {"kernel_size": 0}, r"`ConvNet\(kernel_size=...\)` must be .* got 0\."),
        ("Autoencoder", {"sizes": [4, -2]}, r"`Autoencoder\(sizes=...\)` must be .* got -2\."),
        ("Autoencoder", {"sizes": []}, r"`Autoencoder\(sizes=...\)` must have at least one size"),
        ("ConvNet", {"channels": []}, r"`ConvNet\(channels=...\)` must have at least one size"),
        ("ClassifyingAutoencoder", {"sizes": []}, r"must have at least one size"),
        ("TransformerEncoder", {"heads": 0}, r"`TransformerEncoder\(heads=...\)` must be .* got 0"),
        ("TransformerEncoder", {"width": 30}, "divide `width`, got 4 heads and a width of 30"),
        ("TransformerEncoder", {"dropout": -0.1}, r"must be in \[0, 1\), got -0\.1"),
        ("TransformerDecoder", {"depth": 0}, r"`TransformerDecoder\(depth=...\)` must be .* got 0"),
        ("TransformerDecoder", {"heads": 3}, "divide `width`, got 3 heads and a width of 128"),
    ],
)
def test_bad_hyper_parameters_are_refused(model, hyper_parameters, message):
    input_shape = (8,) if model == "TransformerDecoder" else (8, 8)
    with pytest.raises(ValueError, match=message):
        getattr(models, model)(input_shape, 10, **hyper_parameters, key=KEY)
