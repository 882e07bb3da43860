"""`evaluate` agrees with NumPy's results in float64 from the outputs of all examples."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
from data import Dataset, Rows, Stream
from tests.selection import slow_but
from training import evaluate
from training.chunks import chunks
from training.device import on_device
from training.evaluate import CHUNK, Evaluator
from training.mesh import placement

KEY = jax.random.key(11)


def part(n, targets):
    """`n` inputs of size 3, and targets of the given kind."""
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    y = {
        "labels": rng.integers(0, 4, n).astype(np.int32),
        "probabilities": rng.dirichlet(np.ones(4), n).astype(np.float32),
        "numbers": rng.normal(size=(n, 4)).astype(np.float32),
        "fractions": rng.uniform(size=(n, 4)).astype(np.float32),
    }[targets]
    return jnp.asarray(x), jnp.asarray(y)


def linear():
    return eqx.nn.Linear(3, 4, key=KEY)


def outputs(model, x):
    return np.asarray(x, np.float64) @ np.asarray(model.weight, np.float64).T + np.asarray(
        model.bias, np.float64
    )


def log_softmax(z):
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def categorical(z, y):
    if y.ndim == 1:
        return -log_softmax(z)[np.arange(len(y)), y].mean(), (z.argmax(-1) == y).mean()
    return -(y * log_softmax(z)).sum(-1).mean(), (z.argmax(-1) == y.argmax(-1)).mean()


def gaussian(z, y):
    return ((z - y) ** 2).sum(-1).mean() / (2 * 0.5), np.sqrt(((z - y) ** 2).mean())


def bernoulli(z, y):
    loss = (np.log1p(np.exp(z)) - y * z).sum(-1).mean()
    return loss, np.sqrt(((1 / (1 + np.exp(-z)) - y) ** 2).mean())


def test_the_penalty_is_added_once_to_the_loss():
    model, (x, y) = linear(), part(37, "labels")
    plain = evaluate(cv.Supervised(cv.Categorical()), model, (x, y))
    found = evaluate(cv.Supervised(cv.Categorical(), l2=0.5), model, (x, y))
    weights = np.concatenate([np.ravel(model.weight), np.ravel(model.bias)]).astype(np.float64)
    np.testing.assert_allclose(found["loss"], plain["loss"] + 0.25 * weights @ weights, rtol=1e-6)
    assert found["accuracy"] == plain["accuracy"]


@pytest.mark.parametrize(
    "n", slow_but([1, CHUNK + 1], [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 37])
)
@pytest.mark.parametrize(
    ("likelihood", "targets", "metric", "expected"),
    [
        (cv.Categorical(), "labels", "accuracy", categorical),
        (cv.Categorical(), "probabilities", "accuracy", categorical),
        (cv.Gaussian(variance=0.5), "numbers", "l2_error", gaussian),
        (cv.Bernoulli(), "fractions", "l2_error", bernoulli),
    ],
    ids=["labels", "probabilities", "gaussian", "bernoulli"],
)
def test_every_example_counts_the_same(n, likelihood, targets, metric, expected):
    model, (x, y) = linear(), part(n, targets)
    result = evaluate(cv.Supervised(likelihood), model, (x, y))
    loss, value = expected(outputs(model, x), np.asarray(y))
    assert result.keys() == {"loss", metric}
    np.testing.assert_allclose(result["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(result[metric], value, rtol=1e-5)


def test_metrics_have_the_names_of_their_terms_and_losses_their_weights():
    x, labels = part(50, "labels")
    _, numbers = part(50, "numbers")
    model = linear()
    objective = cv.Objective(
        terms={
            "label": cv.Term(lambda model, x: model(x), cv.Categorical(), weight=2.0),
            "fit": cv.Term(lambda model, x: model(2 * x), cv.Gaussian(variance=0.5)),
        }
    )
    result = evaluate(objective, model, {"label": (x, labels), "fit": (x, numbers)})
    label, accuracy = categorical(outputs(model, x), np.asarray(labels))
    fit, error = gaussian(outputs(model, 2 * x), np.asarray(numbers))
    assert result.keys() == {"loss", "label/accuracy", "fit/l2_error"}
    np.testing.assert_allclose(result["loss"], 2 * label + fit, rtol=1e-5)
    np.testing.assert_allclose(result["label/accuracy"], accuracy, rtol=1e-6)
    np.testing.assert_allclose(result["fit/l2_error"], error, rtol=1e-5)


def test_terms_may_have_different_numbers_of_examples():
    few, many = part(7, "numbers"), part(CHUNK + 5, "numbers")
    model, term = linear(), cv.Term(lambda model, x: model(x), cv.Gaussian(variance=0.5))
    result = evaluate(cv.Objective({"few": term, "many": term}), model, {"few": few, "many": many})
    losses, errors = zip(*(gaussian(outputs(model, x), np.asarray(y)) for x, y in (few, many)))
    np.testing.assert_allclose(result["loss"], sum(losses), rtol=1e-5)
    found = result["few/l2_error"], result["many/l2_error"]
    np.testing.assert_allclose(found, errors, rtol=1e-5)


def test_the_test_result_includes_the_error_against_the_reference():
    test, reference = (
        jax.tree.map(np.asarray, part(n, kind)) for n, kind in [(20, "labels"), (50, "numbers")]
    )
    dataset = Dataset("both", test, test, (3,), 4, reference=reference)
    objective, model = cv.Supervised(cv.Categorical()), linear()
    result = Evaluator(objective, dataset).test(model)
    _, error = gaussian(outputs(model, reference[0]), reference[1])
    np.testing.assert_allclose(result.pop("l2_error"), error, rtol=1e-5)
    assert result == evaluate(objective, model, on_device(test))


def test_autoencoding_is_scored_on_its_input():
    x, labels = part(20, "labels")
    model = eqx.nn.Linear(3, 3, key=KEY)
    result = evaluate(cv.Autoencoding(cv.Gaussian()), model, (x, labels))
    error = outputs(model, x) - np.asarray(x)
    np.testing.assert_allclose(result["loss"], (error**2).sum(-1).mean() / 2, rtol=1e-5)
    np.testing.assert_allclose(result["l2_error"], np.sqrt((error**2).mean()), rtol=1e-5)


class Cubic(cv.AbstractLoss):
    """A user's loss that defines nothing but the loss."""

    def nll(self, z, y):
        return jnp.sum(jnp.abs(z - y) ** 3)


def test_a_users_loss_without_metrics_gives_only_the_loss():
    model, (x, y) = linear(), part(30, "numbers")
    result = evaluate(cv.Supervised(Cubic()), model, (x, y))
    assert result.keys() == {"loss"}
    expected = (np.abs(outputs(model, x) - np.asarray(y)) ** 3).sum(-1).mean()
    np.testing.assert_allclose(result["loss"], expected, rtol=1e-5)


class Reporting(Cubic):
    """A user's loss that also defines a metric."""

    def metrics(self):
        return (cv.Metric("largest", lambda z, y: jnp.max(jnp.abs(z - y)), float),)


def test_a_users_loss_may_define_metrics():
    model, (x, y) = linear(), part(30, "numbers")
    result = evaluate(cv.Supervised(Reporting()), model, (x, y))
    expected = np.abs(outputs(model, x) - np.asarray(y)).max(-1).mean()
    np.testing.assert_allclose(result["largest"], expected, rtol=1e-5)


@pytest.mark.parametrize("hidden", [slice(0, 10), slice(None)], ids=["some", "all"])
def test_masked_examples_do_not_count_in_metrics(hidden):
    """The accuracy is that of the examples that are not masked; without any, it is NaN."""
    model, (x, y) = linear(), part(37, "labels")
    mask = np.ones(37, bool)
    mask[hidden] = False
    labels = jnp.where(mask, y, -100)
    result = evaluate(cv.Supervised(cv.Masked(cv.Categorical())), model, (x, (labels, mask)))
    z, y = outputs(model, x)[mask], np.asarray(y)[mask]
    if not mask.any():
        assert result["loss"] == 0
        assert np.isnan(result["accuracy"])
        return
    loss, accuracy = categorical(z, y)
    np.testing.assert_allclose(result["loss"], loss * mask.mean(), rtol=1e-5)
    np.testing.assert_allclose(result["accuracy"], accuracy, rtol=1e-5)


class Dropped(eqx.Module):
    linear: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __call__(self, x, *, key=None):
        return self.dropout(self.linear(x), key=key)


def test_dropout_is_off():
    data = part(40, "labels")
    objective = cv.Supervised(cv.Categorical())
    dropped = evaluate(objective, Dropped(linear(), eqx.nn.Dropout(0.5)), data)
    assert dropped == evaluate(objective, linear(), data)


class Counting(eqx.Module):
    inner: eqx.Module
    calls: list = eqx.field(static=True)

    def __call__(self, x):
        self.calls.append(None)
        return self.inner(x)


def test_other_weights_do_not_trace_again():
    objective, data, calls = cv.Supervised(cv.Categorical()), part(45, "labels"), []
    first = evaluate(objective, Counting(linear(), calls), data)
    traced = len(calls)
    assert traced > 0
    doubled = jax.tree.map(lambda leaf: 2 * leaf, linear())
    assert evaluate(objective, Counting(doubled, calls), data) != first
    assert len(calls) == traced


def as_stream(part, kind):
    """A stream whose test part consists of arrays, of `Rows` or of batches."""
    x, y = jax.tree.map(np.asarray, part)
    n = len(x)
    cut = range(0, n, 700)
    found = {
        "memory": (x, y),
        "rows": Rows((x[::-1], y[::-1]), chosen=np.arange(n)[::-1]),
        "batches": [(x[k : k + 700], y[k : k + 700]) for k in cut],
    }[kind]
    return Stream("test", [(x, y)], found, (3,), 4)


@pytest.mark.parametrize("kind", ["memory", "rows", "batches"])
def test_arrays_rows_and_batches_give_the_same_results(kind):
    """All chunks share one program, because the last one is padded to the length of the others."""
    traces = []

    class Traced(eqx.Module):
        inner: eqx.nn.Linear

        def __call__(self, x):
            traces.append(x.shape)
            return self.inner(x)

    examples = part(2 * CHUNK + 37, "labels")
    objective, model = cv.Supervised(cv.Categorical()), Traced(linear())
    found = Evaluator(objective, as_stream(examples, kind)).test(model)
    assert len(traces) == 2  # one trace calls the model for the loss and for the metrics
    expected = evaluate(objective, linear(), examples)
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-6)
    assert found["accuracy"] == expected["accuracy"]


def test_several_devices_share_the_chunks():
    """Also if they do not divide the number of examples: the padding is not counted."""
    placed, examples = placement(8, "replicated"), part(CHUNK + 37, "numbers")
    objective, model = cv.Supervised(cv.Gaussian()), linear()
    with placed.context():
        found = Evaluator(objective, as_stream(examples, "memory"), placed).test(model)
    expected = evaluate(objective, model, examples)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)


def test_chunks_of_several_terms_have_every_example_once():
    lengths = {"few": 3, "some": 70, "many": 101}
    terms = {name: (np.arange(n), np.arange(n) + 0.5) for name, n in lengths.items()}
    for most, multiple in ((10, 1), (10, 4), (200, 1), (1, 1)):
        found = list(chunks(terms, most, multiple))
        shapes = {str(jax.tree.map(np.shape, chunk.arrays)) for chunk in found}
        assert len(shapes) == 1
        for name in lengths:
            for leaf, whole in enumerate(terms[name]):
                own = np.concatenate([chunk.own[name][leaf] for chunk in found])
                np.testing.assert_array_equal(own, whole)
        size = len(found[0].arrays["many"][0])
        assert size % multiple == 0
        assert size <= -(-most // multiple) * multiple
