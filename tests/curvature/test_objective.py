"""Objectives: the loss, its linearisation, and what is refused."""

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
import models
from tests.curvature import dense
from tests.curvature.cases import (
    LIKELIHOODS,
    MODELS,
    VARIANCE,
    Tied,
    library,
    mlp,
    supervised,
)

KEY = jax.random.key(11)


def flat(tree):
    return np.asarray(jfu.ravel_pytree(tree)[0])


# The loss.


def by_hand(likelihood, z, y):
    """The mean loss in numpy."""
    if likelihood == "categorical":
        log_p = z - np.log(np.sum(np.exp(z), axis=-1, keepdims=True))
        return -np.mean([log_p[i, label] for i, label in enumerate(y)])
    if likelihood == "bernoulli":
        p = 1 / (1 + np.exp(-z))
        return -np.mean(np.sum(y * np.log(p) + (1 - y) * np.log(1 - p), axis=-1))
    return np.mean(np.sum((z - y) ** 2, axis=-1)) / (2 * VARIANCE)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_loss_by_hand(x64, likelihood):
    model = eqx.nn.Linear(3, 3, key=jax.random.key(0))
    case = supervised(model, likelihood)
    x, y = map(np.asarray, case.batch)
    z = x @ np.asarray(model.weight).T + np.asarray(model.bias)
    assert np.isclose(case.objective.loss(model, case.batch), by_hand(likelihood, z, y), rtol=1e-13)


def test_loss_of_several_terms_by_hand(x64):
    """Σ_t weight_t times the mean over the term's own examples."""
    case = MODELS["several_terms"]("categorical")
    (x, _), (x2, y2) = case.batch["a"], case.batch["b"]
    z = np.asarray(jax.vmap(lambda x: jnp.ravel(case.model(x)))(x))
    z2 = np.asarray(jax.vmap(case.model.classify)(x2))
    expected = 0.3 * by_hand("bernoulli", z, np.asarray(x).reshape(5, 4)) + 2.0 * by_hand(
        "categorical", z2, np.asarray(y2)
    )
    assert np.isclose(case.objective.loss(case.model, case.batch), expected, rtol=1e-13)


def test_autoencoding_is_supervised_by_the_ravelled_input(x64):
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(5, 2, 2)))
    model = models.Autoencoder((2, 2), 0, sizes=(3, 1), key=jax.random.key(0))
    z = np.asarray(jax.vmap(lambda x: jnp.ravel(model(x)))(x))
    expected = by_hand("bernoulli", z, np.asarray(x).reshape(5, 4))
    for anything in (jnp.zeros(5, int), jnp.full((5, 9), jnp.nan)):
        loss = cv.Autoencoding(cv.Bernoulli()).loss(model, (x, anything))
        assert np.isclose(loss, expected, rtol=1e-13)


@pytest.mark.parametrize("model", MODELS)
def test_linearisation(x64, model):
    """The loss, and its gradient, are those of the loss by autodiff, and of the dense one."""
    case = MODELS[model]("categorical")
    params, frozen = eqx.partition(case.model, case.trainable)

    @jax.jit
    def compiled(params):
        model = eqx.combine(params, frozen)
        found = case.objective.linearise(model, case.batch, trainable=case.trainable, key=case.key)

        def of_library(params):
            return case.objective.loss(eqx.combine(params, frozen), case.batch, key=case.key)

        def of_dense(params):
            keys = [term.keys for term in found.terms]
            terms = [
                dense.Term(**(vars(t) | {"keys": k})) for t, k in zip(case.terms, keys, strict=True)
            ]
            return dense.loss(terms, eqx.combine(params, frozen))

        gradients = jax.value_and_grad(of_library)(params), jax.value_and_grad(of_dense)(params)
        return found.loss, found.grad, gradients

    loss, grad, expected = compiled(params)
    assert jax.tree.structure(grad) == jax.tree.structure(params)
    for expected_loss, expected_grad in expected:
        assert np.isclose(loss, expected_loss, rtol=1e-12)
        assert np.allclose(flat(grad), flat(expected_grad), rtol=1e-10, atol=1e-13)


def test_outputs_are_arranged_as_the_batch(x64):
    case = MODELS["several_terms"]("categorical")
    outputs = case.objective.linearise(case.model, case.batch).outputs
    assert {name: z.shape for name, z in outputs.items()} == {"a": (5, 4), "b": (3, 3)}
    for name, term in zip("ab", case.terms, strict=True):
        assert np.allclose(outputs[name], term.values(case.model), rtol=1e-13)
    single = supervised(mlp(jnp.tanh), "categorical")
    assert single.objective.linearise(single.model, single.batch).outputs.shape == (5, 3)


def test_jvp_and_vjp_are_the_jacobian(x64):
    case = supervised(mlp(jnp.tanh), "categorical")
    found = case.objective.linearise(case.model, case.batch)
    J = np.asarray(case.terms[0].jacobians(case.model, case.trainable))
    vector, unravel = jfu.ravel_pytree(found.params)
    (tangents,) = found.jvp(unravel(vector))
    assert np.allclose(tangents, np.einsum("icp,p->ic", J, vector), rtol=1e-11, atol=1e-13)
    cotangents = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
    back = flat(found.vjp((cotangents,)))
    assert np.allclose(back, np.einsum("icp,ic->p", J, cotangents), rtol=1e-11, atol=1e-13)


def test_inputs_may_be_a_tree(x64):
    class Two(eqx.Module):
        linear: eqx.nn.Linear

        def __call__(self, inputs):
            return self.linear(jnp.concatenate([inputs["a"], inputs["b"]]))

    model = Two(eqx.nn.Linear(3, 3, key=jax.random.key(0)))
    case = supervised(model.linear, "categorical")
    x, y = case.batch
    split = {"a": x[:, :1], "b": x[:, 1:]}
    expected = case.objective.loss(model.linear, (x, y))
    assert np.isclose(case.objective.loss(model, (split, y)), expected, rtol=1e-14)
    C = cv.ExactFisher().operator(case.objective.linearise(model, (split, y)))
    expected = cv.ExactFisher().operator(case.objective.linearise(model.linear, (x, y)))
    assert np.allclose(C.diagonal(), expected.diagonal(), rtol=1e-12)


# Dropout.


class TestDropout:
    @pytest.fixture
    def case(self, x64):
        return MODELS["dropout"]("categorical")

    def test_the_same_masks_in_loss_and_linearisation(self, case):
        loss = case.objective.loss(case.model, case.batch, key=KEY)
        found = case.objective.linearise(case.model, case.batch, key=KEY)
        assert np.isclose(found.loss, loss, rtol=1e-13)
        assert not np.isclose(case.objective.loss(case.model, case.batch, key=case.key), loss)

    def test_each_example_has_a_mask_of_its_own(self, case):
        """Copies of one example come out differently."""
        x, y = (jnp.repeat(leaf[:1], 16, axis=0) for leaf in case.batch)
        z = case.objective.linearise(case.model, (x, y), key=KEY).outputs
        assert len(np.unique(z, axis=0)) > 8

    def test_the_mask_of_an_example_is_its_own(self, case):
        """Not that of the batch it is in."""
        first = jax.tree.map(lambda leaf: leaf[:2], case.batch)
        whole = case.objective.linearise(case.model, case.batch, key=KEY).outputs
        alone = case.objective.linearise(case.model, first, key=KEY).outputs
        assert np.allclose(whole[:2], alone, rtol=1e-13)

    def test_terms_drop_apart(self, case):
        term = cv.Term(lambda model, x, key: model(x, key=key), cv.Categorical())
        objective = cv.Objective(terms={"a": term, "b": term})
        batch = {"a": case.batch, "b": case.batch}
        found = objective.linearise(case.model, batch, key=KEY).outputs
        assert not np.allclose(found["a"], found["b"])

    def test_a_key_is_needed(self, case):
        with pytest.raises(RuntimeError, match="Dropout requires a key"):
            case.objective.loss(case.model, case.batch)

    def test_inference_needs_none(self, case):
        still = eqx.nn.inference_mode(case.model)
        loss = case.objective.loss(still, case.batch)
        assert np.isclose(loss, case.objective.loss(still, case.batch, key=KEY), rtol=1e-14)


# Weights that are frozen or shared.


def test_frozen_weights_have_no_gradient(x64):
    case = MODELS["frozen"]("categorical")
    found = case.objective.linearise(case.model, case.batch, trainable=case.trainable)
    layers = found.grad.layers
    assert layers[0].bias is layers[1].weight is layers[1].bias is layers[2].weight is None
    whole = case.objective.linearise(case.model, case.batch)
    assert found.loss == whole.loss
    assert np.allclose(layers[0].weight, whole.grad.layers[0].weight, rtol=1e-13)
    assert np.allclose(layers[2].bias, whole.grad.layers[2].bias, rtol=1e-13)


def test_a_shared_weight_is_counted_once(x64):
    """`eqx.nn.Shared` against the same net with the one weight written twice."""
    model = Tied(jax.random.key(0))
    case = supervised(model, "categorical")
    found = case.objective.linearise(case.model, case.batch)
    first, second = model.shared()
    leaves = [jnp.array(leaf) for leaf in (first.weight, first.bias, second.bias)]

    def net(leaves, x):
        weight, bias, bias2 = leaves
        return weight @ jnp.tanh(weight @ x + bias) + bias2

    x, y = case.batch
    z = jax.vmap(lambda x: net(leaves, x))(x)
    J = jax.jit(jax.vmap(lambda x: jax.jacrev(lambda w: net(w, x))(leaves)))(x)
    J = np.concatenate([leaf.reshape(5, 3, -1) for leaf in J], axis=2)
    g = jax.vmap(lambda z, y: dense.score(LIKELIHOODS["categorical"], z, y))(z, y)
    M = jax.jit(jax.vmap(dense.exact_fisher(LIKELIHOODS["categorical"])))(z, y)
    expected = dense.pullback(1 / 5, J, M)
    C = eqx.filter_jit(lambda found: cv.ExactFisher().operator(found).as_matrix())(found)
    assert C.shape == (15, 15)
    assert np.allclose(flat(found.grad), np.einsum("ic,icp->p", g, J) / 5, rtol=1e-11, atol=1e-13)
    assert np.linalg.norm(C - expected) <= 1e-10 * np.linalg.norm(expected)


# Losses of one's own.


class Wavy(cv.AbstractLoss):
    """Not convex in z: the Hessian has eigenvalues of both signs."""

    def nll(self, z, y):
        return jnp.sum(jnp.sin(2 * z)) + z[0] * z[1] * z[2] + jnp.sum(y * z)


@pytest.mark.parametrize("metric", [cv.GaussNewton(), cv.EmpiricalFisher()])
def test_a_loss_of_ones_own(x64, metric):
    """`nll` alone will do; negative eigenvalues of its Hessian are clipped to 0."""
    case = supervised(mlp(jnp.tanh), "gaussian")
    (term,) = case.terms
    _, y = case.batch
    found = cv.Supervised(Wavy()).linearise(case.model, case.batch)
    J, z = term.jacobians(case.model, case.trainable), term.values(case.model)
    assert np.isclose(found.loss, jnp.mean(jax.vmap(Wavy().nll)(z, y)), rtol=1e-13)
    H = jax.jit(jax.vmap(dense.gauss_newton(Wavy())))(z, y)
    assert np.linalg.eigvalsh(H).min() < -0.1
    of_metric = {
        cv.GaussNewton: dense.clipped(dense.gauss_newton(Wavy())),
        cv.EmpiricalFisher: dense.empirical_fisher(Wavy()),
    }[type(metric)]
    expected = dense.pullback(1 / 5, J, jax.jit(jax.vmap(of_metric))(z, y))
    C = eqx.filter_jit(lambda found: metric.operator(found).as_matrix())(found)
    assert np.linalg.norm(C - expected) <= 1e-10 * np.linalg.norm(expected)
    assert np.linalg.eigvalsh(C)[0] >= -1e-13 * np.linalg.norm(C)


# Labels out of range.


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_out_of_range_makes_the_loss_nan(label):
    case = supervised(mlp(jnp.tanh), "categorical")
    x, y = case.batch
    batch = (x, y.at[2].set(label))
    assert np.isnan(case.objective.loss(case.model, batch))
    assert np.isnan(case.objective.linearise(case.model, batch).loss)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_out_of_range_makes_the_gradient_nan(label):
    case = supervised(mlp(jnp.tanh), "categorical")
    x, y = case.batch
    found = case.objective.linearise(case.model, (x, y.at[2].set(label)))
    assert not np.all(np.isfinite(flat(found.grad)))


# What is refused.

SUPERVISED = cv.Supervised(cv.Categorical())
TWO = cv.Objective(
    terms={
        "a": cv.Term(lambda model, x: model(x), cv.Categorical()),
        "b": cv.Term(lambda model, x: model(x), cv.Categorical()),
    }
)
X, Y = jnp.zeros((4, 3)), jnp.zeros(4, jnp.int32)
SHAPES = "must share one leading axis of at least one example"


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("method", ["loss", "linearise"])
class TestRefused:
    @pytest.mark.parametrize(
        ("objective", "batch", "sentence"),
        [
            (SUPERVISED, X, r"A batch of `Supervised` must be \(inputs, targets\), got array"),
            (SUPERVISED, (X,), r"A batch of `Supervised` must be"),
            (SUPERVISED, (X, Y, Y), r"A batch of `Supervised` must be"),
            (SUPERVISED, {"a": (X, Y)}, r"A batch of `Supervised` must be"),
            (SUPERVISED, None, r"A batch of `Supervised` must be"),
            (SUPERVISED, (X, Y[:3]), SHAPES),
            (SUPERVISED, (X[:0], Y[:0]), SHAPES),
            (SUPERVISED, (X, jnp.zeros((), int)), SHAPES),
            (TWO, (X, Y), r"A batch of `Objective` must be \{'a': .*'b': .*got"),
            (TWO, {"a": (X, Y)}, r"A batch of `Objective` must be"),
            (TWO, {"a": (X, Y), "c": (X, Y)}, r"A batch of `Objective` must be"),
            (TWO, {"a": (X, Y), "b": X}, r"A batch of `Objective` must be"),
            (TWO, {"a": (X, Y), "b": (X, Y[:2])}, SHAPES),
            (cv.Autoencoding(cv.Bernoulli()), X, r"A batch of `Autoencoding` must be"),
            (cv.Autoencoding(cv.Bernoulli()), (X, Y, Y), r"A batch of `Autoencoding` must be"),
        ],
    )
    def test_batches(self, method, objective, batch, sentence):
        with pytest.raises(ValueError, match=sentence):
            getattr(objective, method)(mlp(jnp.tanh), batch)

    def test_batch_norm(self, method):
        class Net(eqx.Module):
            norm: eqx.nn.BatchNorm
            linear: eqx.nn.Linear

            def __call__(self, x, state):
                x, state = self.norm(x, state)
                return self.linear(x), state

        linear = eqx.nn.Linear(3, 3, key=KEY)
        norm = eqx.nn.BatchNorm(3, axis_name="batch", mode="batch")
        model, state = eqx.nn.make_with_state(Net)(norm, linear)
        for coupled in (model, eqx.nn.inference_mode(model), (model, state)):
            with pytest.raises(ValueError, match=r"couples the examples of a batch.*LayerNorm"):
                getattr(SUPERVISED, method)(coupled, (X, Y))

    def test_models_that_return_more_than_an_array(self, method):
        class Pair(eqx.Module):
            net: eqx.nn.MLP

            def __call__(self, x):
                return self.net(x), x

        with pytest.raises(ValueError, match=r"must be one floating-point array.*got"):
            getattr(SUPERVISED, method)(Pair(mlp(jnp.tanh)), (X, Y))

    def test_models_that_return_integers(self, method):
        term = cv.Term(lambda model, x: jnp.argmax(model(x)), cv.Categorical())
        objective = cv.Objective(terms={"a": term})
        with pytest.raises(ValueError, match="must be one floating-point array"):
            getattr(objective, method)(mlp(jnp.tanh), {"a": (X, Y)})

    def test_models_that_do_not_fit_the_targets(self, method):
        with pytest.raises(ValueError, match="takes one target per output"):
            getattr(cv.Supervised(cv.Bernoulli()), method)(mlp(jnp.tanh), (X, jnp.zeros((4, 2))))


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight):
    with pytest.raises(ValueError, match=r"`Term\(weight=...\)` must be a finite number ≥ 0, got"):
        cv.Term(lambda model, x: model(x), cv.Categorical(), weight=weight)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("terms", [{}, {"a": cv.Categorical()}, {"a": None}])
def test_an_objective_without_terms_is_refused(terms):
    with pytest.raises(ValueError, match=r"`Objective\(terms=...\)` must be a dictionary"):
        cv.Objective(terms=terms)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("trainable", "sentence"),
    [
        (lambda leaf: False, "nothing is to be trained"),
        (lambda leaf: True, "must select floating-point arrays alone"),
    ],
)
def test_trainable_weights_are_floating_point_arrays(trainable, sentence):
    with pytest.raises(ValueError, match=sentence):
        SUPERVISED.linearise(mlp(jnp.tanh), (X, Y), trainable=trainable)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_float32_stays_float32(likelihood):
    case = supervised(mlp(jnp.tanh), likelihood)
    found = case.objective.linearise(case.model, case.batch)
    leaves = jax.tree.leaves((found.loss, found.grad, found.outputs))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    assert library(likelihood).nll(found.outputs[0], case.batch[1][0]).dtype == jnp.float32
