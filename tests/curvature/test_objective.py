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
    VARIANCE,
    Tied,
    library,
    mlp,
    supervised,
)
from tests.curvature.written import METRICS, MODELS, flat
from tests.selection import slow_but

# Type checks of every call would double the time of a trace.
pytestmark = pytest.mark.usefixtures("as_installed")

KEY = jax.random.key(11)
LINEARISED = ["one layer", "dropout", "called_twice", "frozen", "several_terms", "convnet"]


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


@pytest.mark.parametrize("likelihood", slow_but(["gaussian"], LIKELIHOODS))
def test_loss_by_hand(x64, likelihood):
    model = eqx.nn.Linear(3, 3, key=jax.random.key(0))
    case = supervised(model, likelihood)
    x, y = map(np.asarray, case.batch)
    z = x @ np.asarray(model.weight).T + np.asarray(model.bias)
    loss = eqx.filter_jit(case.objective.loss)(model, case.batch)
    assert np.isclose(loss, by_hand(likelihood, z, y), rtol=1e-13)


@pytest.mark.slow
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


@pytest.mark.slow
def test_autoencoding_is_supervised_by_the_ravelled_input(x64):
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(5, 2, 2)))
    model = models.Autoencoder((2, 2), 0, sizes=(3, 1), key=jax.random.key(0))
    z = np.asarray(jax.vmap(lambda x: jnp.ravel(model(x)))(x))
    expected = by_hand("bernoulli", z, np.asarray(x).reshape(5, 4))
    for anything in (jnp.zeros(5, int), jnp.full((5, 9), jnp.nan)):
        loss = cv.Autoencoding(cv.Bernoulli()).loss(model, (x, anything))
        assert np.isclose(loss, expected, rtol=1e-13)


@pytest.mark.parametrize("model", slow_but(["one layer"], LINEARISED))
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
        pairs = zip(case.terms, jax.tree.leaves(found.outputs), found.terms, strict=True)
        outputs = [
            (z, dense.Term(**(vars(t) | {"keys": own.keys})).values(model)) for t, z, own in pairs
        ]
        return found.loss, found.grad, gradients, outputs

    loss, grad, expected, outputs = compiled(params)
    for z, expected_z in outputs:
        assert np.allclose(z, expected_z, rtol=1e-12)
    assert jax.tree.structure(grad) == jax.tree.structure(params)
    for expected_loss, expected_grad in expected:
        assert np.isclose(loss, expected_loss, rtol=1e-12)
        assert np.allclose(flat(grad), flat(expected_grad), rtol=1e-10, atol=1e-13)


@pytest.mark.slow
def test_outputs_are_arranged_as_the_batch(x64):
    for kind, shapes in (("several_terms", {"a": (5, 4), "b": (3, 3)}), ("tanh", (5, 3))):
        case = MODELS[kind]("categorical")
        found = eqx.filter_eval_shape(case.objective.linearise, case.model, case.batch)
        assert jax.tree.map(lambda z: z.shape, found.outputs) == shapes


def test_jvp_and_vjp_are_the_jacobian(x64):
    case = supervised(mlp(jnp.tanh), "categorical")
    v, unravel = jfu.ravel_pytree(eqx.filter(case.model, eqx.is_inexact_array))
    cotangents = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))

    @eqx.filter_jit
    def products(model):
        found = case.objective.linearise(model, case.batch)
        J = case.terms[0].jacobians(model, case.trainable)
        return found.jvp(unravel(v)), found.vjp((cotangents,)), J

    (tangents,), back, J = products(case.model)
    assert np.allclose(tangents, np.einsum("icp,p->ic", J, v), rtol=1e-11, atol=1e-13)
    assert np.allclose(flat(back), np.einsum("icp,ic->p", J, cotangents), rtol=1e-11, atol=1e-13)


@pytest.mark.slow
def test_inputs_may_be_a_tree(x64):
    class Two(eqx.Module):
        linear: eqx.nn.Linear

        def __call__(self, inputs):
            return self.linear(jnp.concatenate([inputs["a"], inputs["b"]]))

    model = Two(eqx.nn.Linear(3, 3, key=jax.random.key(0)))
    case = supervised(model.linear, "categorical")
    x, y = case.batch

    @eqx.filter_jit
    def numbers(model, batch):
        here = case.objective.linearise(model, batch)
        operator = cv.ExactFisher().operator(here)
        return case.objective.loss(model, batch), here.grad, operator.mv(here.grad)

    found = numbers(model, ({"a": x[:, :1], "b": x[:, 1:]}, y))
    expected = numbers(model.linear, (x, y))
    assert np.allclose(flat(found), flat(expected), rtol=1e-12)


@pytest.mark.slow
def test_dropout_has_a_mask_of_each_example_and_term_in_loss_and_linearisation(x64):
    """Copies of one example come out differently, in each term anew."""
    case = MODELS["dropout"]("categorical")
    term = cv.Term(lambda model, x, key: model(x, key=key), cv.Categorical())
    objective = cv.Objective(terms={"a": term, "b": term})
    copies = jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], 16, axis=0), case.batch)
    batch = {"a": copies, "b": jax.tree.map(lambda leaf: leaf[:2], copies)}

    @eqx.filter_jit
    def run(model, key):
        found = objective.linearise(model, batch, key=key)
        return objective.loss(model, batch, key=key), found.loss, found.outputs

    loss, linearised, outputs = run(case.model, KEY)
    assert np.isclose(linearised, loss, rtol=1e-13)
    assert len(np.unique(outputs["a"], axis=0)) > 8
    assert not np.allclose(outputs["a"][:2], outputs["b"])
    assert not np.isclose(run(case.model, case.key)[0], loss)


@pytest.mark.slow
def test_the_mask_of_an_example_is_its_own(x64):
    """Not that of the batch it is in."""
    case = MODELS["dropout"]("categorical")

    @eqx.filter_jit
    def outputs(model, n):
        batch = jax.tree.map(lambda leaf: leaf[:n], case.batch)
        return case.objective.linearise(model, batch, key=KEY).outputs

    assert np.allclose(outputs(case.model, 5)[:2], outputs(case.model, 2), rtol=1e-13)


@pytest.mark.slow
def test_dropout_needs_a_key_but_for_inference(x64):
    case = MODELS["dropout"]("categorical")
    with pytest.raises(RuntimeError, match="Dropout requires a key"):
        case.objective.loss(case.model, case.batch)
    still = eqx.nn.inference_mode(case.model)
    assert eqx.filter_eval_shape(case.objective.loss, still, case.batch).shape == ()


# Weights of examples.

BY_METRIC = {
    "gauss_newton": cv.GaussNewton(),
    "exact_fisher": cv.ExactFisher(),
    "empirical_fisher": cv.EmpiricalFisher(),
}
WEIGHTS = jnp.asarray([0.5, 2.0, 0.0, 3.0, 0.25], jnp.float32)


@pytest.mark.parametrize("likelihood", slow_but(["categorical"], LIKELIHOODS))
def test_a_weight_multiplies_an_example_in_loss_gradient_and_curvature(x64, likelihood):
    """One of weight 0 is left out exactly, whatever it holds."""
    case = supervised(eqx.nn.Linear(3, 3, key=jax.random.key(0)), likelihood)
    (x, y), weights = case.batch, WEIGHTS.astype(float)
    is_label = jnp.issubdtype(y.dtype, jnp.integer)
    hidden = y.at[2].set(-100 if is_label else jnp.nan), x.at[2].set(jnp.nan)
    distribution = LIKELIHOODS[likelihood]

    @eqx.filter_jit
    def ours(model, batch):
        here = case.objective.linearise(model, batch)
        matrices = {n: C.operator(here).as_matrix() for n, C in BY_METRIC.items()}
        return case.objective.loss(model, batch), here.loss, here.grad, matrices

    @eqx.filter_jit
    def by_hand(model):
        (term,) = case.terms

        def loss(model):
            nll = jax.vmap(distribution.nll)(term.values(model), y)
            return jnp.sum(weights * nll) / 5

        J, z = term.jacobians(model, case.trainable), term.values(model)
        matrices = {}
        for name in BY_METRIC:
            M = jax.vmap(METRICS[name](distribution))(z, y)
            matrices[name] = jnp.einsum("i,icp,icd,idq->pq", weights / 5, J, M, J)
        return loss(model), eqx.filter_grad(loss)(model), matrices

    loss, grad, matrices = by_hand(case.model)
    found = ours(case.model, (hidden[1], hidden[0], weights))
    for value in found[:2]:
        assert np.isclose(value, loss, rtol=1e-12)
    assert np.allclose(flat(found[2]), flat(grad), rtol=1e-11, atol=1e-14)
    for name, matrix in matrices.items():
        assert np.allclose(found[3][name], matrix, rtol=1e-10, atol=1e-13), name


def test_class_weights_are_weights_of_examples(x64):
    case = supervised(eqx.nn.Linear(3, 3, key=jax.random.key(0)), "categorical")
    x, y = case.batch
    of_class = jnp.asarray([0.2, 1.0, 5.0])
    z = np.asarray(x) @ np.asarray(case.model.weight).T + np.asarray(case.model.bias)
    log_p = z - np.log(np.sum(np.exp(z), axis=1, keepdims=True))
    expected = -np.mean([of_class[label] * log_p[i, label] for i, label in enumerate(y)])
    loss = eqx.filter_jit(case.objective.loss)(case.model, (x, y, of_class[y]))
    assert np.isclose(loss, expected, rtol=1e-12)


def test_weights_that_are_no_weights(x64):
    """Of another form they are refused; a negative one makes the loss NaN."""
    case = supervised(eqx.nn.Linear(3, 3, key=jax.random.key(0)), "categorical")
    x, y = case.batch
    for weights in (jnp.ones((5, 3)), jnp.ones(5, int), jnp.ones(5, bool)):
        with pytest.raises(ValueError, match="must be one floating-point number per example"):
            case.objective.loss(case.model, (x, y, weights))
    negative = x, y, jnp.asarray([1.0, -1, 1, 1, 1])
    assert np.isnan(eqx.filter_jit(case.objective.loss)(case.model, negative))


def test_numbers_are_not_rounded_by_when_an_objective_was_made():
    """Before `jax_enable_x64` was set, or after."""

    def made():
        term = cv.Term(lambda model, x: model(x), cv.Gaussian(variance=0.7), weight=0.3)
        return cv.Objective({"a": term}, l2=0.1)

    before = made()
    with jax.enable_x64(True):
        model = eqx.nn.Linear(3, 2, key=jax.random.key(0))
        rng = np.random.default_rng(0)
        x, y = jnp.asarray(rng.normal(size=(4, 3))), jnp.asarray(rng.normal(size=(4, 2)))
        z = np.asarray(x) @ np.asarray(model.weight).T + np.asarray(model.bias)
        expected = 0.3 * np.mean(np.sum((z - y) ** 2, axis=1)) / (2 * 0.7)
        expected += 0.1 / 2 * sum(np.sum(np.square(leaf)) for leaf in (model.weight, model.bias))
        for objective in (before, made()):
            loss = eqx.filter_jit(objective.loss)(model, {"a": (x, y)})
            assert np.isclose(loss, expected, rtol=1e-14)


# Weights that are frozen or shared.


@pytest.mark.slow
def test_frozen_weights_have_no_gradient(x64):
    case = MODELS["frozen"]("categorical")

    @eqx.filter_jit
    def linearised(model):
        found = case.objective.linearise(model, case.batch, trainable=case.trainable)
        whole = case.objective.linearise(model, case.batch)
        return (found.loss, whole.loss), (found.grad, whole.grad)

    losses, (found, whole) = linearised(case.model)
    layers = found.layers
    assert layers[0].bias is layers[1].weight is layers[1].bias is layers[2].weight is None
    assert np.isclose(*losses, rtol=1e-13)
    assert np.allclose(layers[0].weight, whole.layers[0].weight, rtol=1e-13)
    assert np.allclose(layers[2].bias, whole.layers[2].bias, rtol=1e-13)


@pytest.mark.slow
def test_a_shared_weight_is_counted_once(x64):
    """`eqx.nn.Shared` against the same net with the one weight written twice."""
    model = Tied(jax.random.key(0))
    case = supervised(model, "categorical")
    first, second = model.shared()
    leaves = [jnp.array(leaf) for leaf in (first.weight, first.bias, second.bias)]
    x, y = case.batch

    def net(leaves, x):
        weight, bias, bias2 = leaves
        return weight @ jnp.tanh(weight @ x + bias) + bias2

    @eqx.filter_jit
    def numbers(model, leaves):
        found = case.objective.linearise(model, case.batch)
        z = jax.vmap(lambda x: net(leaves, x))(x)
        J = jax.vmap(lambda x: jax.jacrev(lambda w: net(w, x))(leaves))(x)
        J = jnp.concatenate([leaf.reshape(5, 3, -1) for leaf in J], axis=2)
        g = jax.vmap(lambda z, y: dense.score(LIKELIHOODS["categorical"], z, y))(z, y)
        M = jax.vmap(dense.exact_fisher(LIKELIHOODS["categorical"]))(z, y)
        return found.grad, cv.ExactFisher().operator(found).as_matrix(), J, g, M

    grad, C, J, g, M = numbers(model, leaves)
    expected = dense.pullback(1 / 5, np.asarray(J), np.asarray(M))
    assert C.shape == (15, 15)
    assert np.allclose(flat(grad), np.einsum("ic,icp->p", g, J) / 5, rtol=1e-11, atol=1e-13)
    assert np.linalg.norm(C - expected) <= 1e-10 * np.linalg.norm(expected)


# Losses of one's own.


class Wavy(cv.AbstractLoss):
    """Not convex in z: the Hessian has eigenvalues of both signs."""

    def nll(self, z, y):
        return jnp.sum(jnp.sin(2 * z)) + z[0] * z[1] * z[2] + jnp.sum(y * z)


@pytest.mark.slow
def test_a_loss_of_ones_own(x64):
    """`nll` alone will do; negative eigenvalues of its Hessian are clipped to 0."""
    case = supervised(mlp(jnp.tanh), "gaussian")
    (term,) = case.terms
    _, y = case.batch
    metrics = [
        (cv.GaussNewton(), dense.clipped(dense.gauss_newton(Wavy()))),
        (cv.EmpiricalFisher(), dense.empirical_fisher(Wavy())),
    ]

    @eqx.filter_jit
    def numbers(model):
        found = cv.Supervised(Wavy()).linearise(model, case.batch)
        J, z = term.jacobians(model, case.trainable), term.values(model)
        loss, H = jnp.mean(jax.vmap(Wavy().nll)(z, y)), jax.vmap(dense.gauss_newton(Wavy()))(z, y)
        pairs = [(C.operator(found).as_matrix(), jax.vmap(M)(z, y)) for C, M in metrics]
        return found.loss, loss, J, H, pairs

    found, loss, J, H, pairs = numbers(case.model)
    assert np.isclose(found, loss, rtol=1e-13)
    assert np.linalg.eigvalsh(H).min() < -0.1
    for C, M in pairs:
        expected = dense.pullback(1 / 5, np.asarray(J), np.asarray(M))
        assert np.linalg.norm(C - expected) <= 1e-10 * np.linalg.norm(expected)
        assert np.linalg.eigvalsh(C)[0] >= -1e-13 * np.linalg.norm(C)


# Labels out of range.


def test_a_label_out_of_range_makes_loss_outputs_and_gradient_nan():
    case = supervised(eqx.nn.Linear(3, 3, key=jax.random.key(0)), "categorical")
    x, y = case.batch

    @jax.jit
    def numbers(y):
        here = case.objective.linearise(case.model, (x, y))
        loss = case.objective.loss(case.model, (x, y))
        return loss, here.loss, here.outputs, here.grad, here.valid

    for label in (-1, 3):
        loss, linearised, outputs, grad, valid = numbers(y.at[2].set(label))
        assert np.isnan(loss)
        assert np.isnan(linearised)
        assert np.isnan(outputs).all(axis=1).tolist() == [False, False, True, False, False]
        assert not np.all(np.isfinite(flat(grad)))
        assert not valid


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


@pytest.mark.parametrize("method", ["loss", "linearise"])
class TestRefused:
    @pytest.mark.parametrize(
        ("objective", "batch", "sentence"),
        [
            (SUPERVISED, X, r"A batch of `Supervised` must be \(inputs, targets\), got array"),
            (SUPERVISED, (X,), r"A batch of `Supervised` must be"),
            (SUPERVISED, (X, Y, jnp.ones(4), Y), r"A batch of `Supervised` must be"),
            (SUPERVISED, (X, Y, jnp.ones(3)), SHAPES),
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
            (cv.Autoencoding(cv.Bernoulli()), (X,), r"A batch of `Autoencoding` must be"),
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


@pytest.mark.parametrize("terms", [{}, {"a": cv.Categorical()}, {"a": None}])
def test_an_objective_without_terms_is_refused(terms):
    with pytest.raises(ValueError, match=r"`Objective\(terms=...\)` must be a dictionary"):
        cv.Objective(terms=terms)


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
    case = supervised(eqx.nn.Linear(3, 3, key=jax.random.key(0)), likelihood)
    found = eqx.filter_eval_shape(case.objective.linearise, case.model, case.batch)
    leaves = jax.tree.leaves((found.loss, found.grad, found.outputs))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    nll = jax.eval_shape(library(likelihood).nll, jnp.zeros(3), case.batch[1][0])
    assert nll.dtype == jnp.float32
