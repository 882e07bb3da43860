"""Objectives: the loss, its linearisation, and errors for wrong batches, models and weights."""

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
from tests.curvature import dense
from tests.curvature.cases import (
    LIKELIHOODS,
    dropped,
    library,
    mlp,
    supervised,
)
from tests.curvature.written import METRICS, MODELS, Written, flat
from tests.selection import slow_but

pytestmark = pytest.mark.usefixtures("as_installed")

KEY = jax.random.key(11)
LINEARISED = [
    *("one layer", "dropout", "called_twice", "frozen", "several_terms", "convnet", "autoencoder")
]


@pytest.mark.parametrize("model", slow_but(["several_terms"], LINEARISED))
def test_loss_outputs_and_gradient_are_those_of_the_dense_reference(x64, model):
    """The outputs, the loss of both methods and its gradient are those of the dense reference."""
    case = MODELS[model]("categorical")
    params, frozen = eqx.partition(case.model, case.trainable)

    @jax.jit
    def compiled(params):
        model = eqx.combine(params, frozen)
        found = case.objective.linearise(model, case.batch, trainable=case.trainable, key=case.key)

        terms = [
            dense.Term(**(vars(term) | {"keys": own.keys}))
            for term, own in zip(case.terms, found.terms, strict=True)
        ]

        def of_dense(params):
            return dense.loss(terms, eqx.combine(params, frozen))

        of_library = case.objective.loss(model, case.batch, key=case.key)
        leaves = jax.tree.leaves(found.outputs)
        outputs = [(z, term.values(model)) for z, term in zip(leaves, terms, strict=True)]
        return (found.loss, of_library), found.grad, jax.value_and_grad(of_dense)(params), outputs

    losses, grad, (expected_loss, expected_grad), outputs = compiled(params)
    for z, expected_z in outputs:
        assert np.allclose(z, expected_z, rtol=1e-12)
    assert jax.tree.structure(grad) == jax.tree.structure(params)
    assert np.allclose(losses, expected_loss, rtol=1e-12)
    assert np.allclose(flat(grad), flat(expected_grad), rtol=1e-10, atol=1e-13)


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


def test_dropout_has_a_mask_of_each_example_and_term_in_loss_and_linearisation(x64):
    """Copies of one example have different masks, also in different terms.

    The mask of an example does not depend on the rest of the batch.
    """
    case = dropped("categorical")
    term = cv.Term(lambda model, x, key: model(x, key=key), cv.Categorical())
    objective = cv.Objective(terms={"a": term, "b": term})
    copies = jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], 16, axis=0), case.batch)
    batch = {"a": copies, "b": jax.tree.map(lambda leaf: leaf[:2], copies)}

    @eqx.filter_jit
    def run(model, keys):
        found = objective.linearise(model, batch, key=keys[0])
        alone = objective.linearise(model, {"a": batch["b"], "b": batch["b"]}, key=keys[0])
        losses = [objective.loss(model, batch, key=key) for key in keys]
        return losses, found.loss, found.outputs, alone.outputs

    (loss, other), linearised, outputs, alone = run(case.model, (KEY, jax.random.key(7)))
    assert np.isclose(linearised, loss, rtol=1e-13)
    assert not np.isclose(other, loss)
    assert len(np.unique(outputs["a"], axis=0)) > 8
    assert not np.allclose(outputs["a"][:2], outputs["b"])
    assert np.allclose(outputs["a"][:2], alone["a"], rtol=1e-13)


def test_dropout_needs_a_key_but_for_inference():
    case = dropped("categorical")
    with pytest.raises(RuntimeError, match="Dropout requires a key"):
        eqx.filter_eval_shape(case.objective.loss, case.model, case.batch)
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
    """An example of weight 0 has no effect, even if its input is NaN and its target is invalid."""
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


def test_the_derivative_in_a_weight_of_zero_is_nan(x64):
    """The model is not evaluated at this example, so the derivative is not known."""
    case = supervised(eqx.nn.Linear(3, 3, key=jax.random.key(0)), "categorical")
    x, y = case.batch
    weights = WEIGHTS.astype(float)
    found = jax.grad(lambda weights: case.objective.loss(case.model, (x, y, weights)))(weights)
    nll = jax.vmap(LIKELIHOODS["categorical"].nll)(case.terms[0].values(case.model), y)
    np.testing.assert_allclose(found, np.where(weights == 0, np.nan, nll / 5), rtol=1e-12)


def test_a_term_without_used_examples_has_no_effect():
    """As a batch without labels has in semi-supervised training; the inputs may hold NaN."""
    model = eqx.nn.Linear(3, 3, key=jax.random.key(0))
    x = jnp.ones((4, 3))
    terms = {
        "labels": cv.Term(lambda model, x: model(x), cv.Categorical()),
        "values": cv.Term(lambda model, x: model(x), cv.Gaussian()),
    }
    used = x, jnp.zeros((4, 3))
    unused = x * jnp.nan, jnp.full(4, -1), jnp.zeros(4)
    both = cv.Objective(terms).linearise(model, {"labels": unused, "values": used})
    alone = cv.Objective({"values": terms["values"]}).linearise(model, {"values": used})
    assert both.valid
    np.testing.assert_allclose(both.loss, alone.loss, rtol=1e-6)
    np.testing.assert_allclose(flat(both.grad), flat(alone.grad), rtol=1e-6)


def test_wrong_weights_are_refused_or_make_the_loss_nan(x64):
    """Weights of another shape or dtype are refused; a negative weight makes the loss NaN."""
    case = supervised(eqx.nn.Linear(3, 3, key=jax.random.key(0)), "categorical")
    x, y = case.batch
    for weights in (jnp.ones((5, 3)), jnp.ones(5, int), jnp.ones(5, bool)):
        with pytest.raises(ValueError, match="must be one floating-point number per example"):
            case.objective.loss(case.model, (x, y, weights))
    negative = x, y, jnp.asarray([1.0, -1, 1, 1, 1])
    assert np.isnan(eqx.filter_jit(case.objective.loss)(case.model, negative))


def test_an_objective_made_before_x64_is_enabled_keeps_full_precision():
    """Settings are not rounded to float32 if the objective is made before x64 is enabled."""

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


class Tied(eqx.Module):
    """Two layers that share one weight by `eqx.nn.Shared`."""

    shared: eqx.nn.Shared

    def __init__(self, key: jax.Array):
        first, second = (eqx.nn.Linear(3, 3, key=k) for k in jax.random.split(key))
        self.shared = eqx.nn.Shared(
            (first, second), where=lambda pair: pair[1].weight, get=lambda pair: pair[0].weight
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        first, second = self.shared()
        return second(jnp.tanh(first(x)))


def test_a_shared_weight_is_counted_once(x64):
    case = supervised(Tied(jax.random.key(0)), "categorical")
    written = Written(case, "exact_fisher")
    _, g, C = written(written.w)

    @eqx.filter_jit
    def numbers(model):
        found = case.objective.linearise(model, case.batch)
        return found.grad, cv.ExactFisher().operator(found).as_matrix()

    grad, matrix = numbers(case.model)
    assert matrix.shape == (15, 15)
    assert np.allclose(flat(grad), g, rtol=1e-11, atol=1e-13)
    assert np.linalg.norm(matrix - C) <= 1e-10 * np.linalg.norm(C)


# A user's own loss.


class Wavy(cv.AbstractLoss):
    """A loss that is not convex in z: its Hessian has eigenvalues of both signs."""

    def nll(self, z, y):
        return jnp.sum(jnp.sin(2 * z)) + z[0] * z[1] * z[2] + jnp.sum(y * z)


def test_a_loss_of_ones_own(x64):
    """`nll` is the only method needed; negative eigenvalues of its Hessian are clipped to 0."""
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


# Errors.

SUPERVISED = cv.Supervised(cv.Categorical())
TWO = cv.Objective(
    terms={
        "a": cv.Term(lambda model, x: model(x), cv.Categorical()),
        "b": cv.Term(lambda model, x: model(x), cv.Categorical()),
    }
)
X, Y = jnp.zeros((4, 3)), jnp.zeros(4, jnp.int32)
SHAPES = "must share one leading axis of at least one example"
PAIR, NAMED = r"A batch of `Supervised` must be", r"A batch of `Objective` must be"
NUMBERS = r"must be one floating-point array.*got"


def refused(objective, model, batch, sentence):
    """Checks that `loss` and `linearise` both raise an error with this sentence."""
    for method in (objective.loss, objective.linearise):
        with pytest.raises(ValueError, match=sentence):
            method(model, batch)


@pytest.mark.parametrize(
    ("objective", "batch", "sentence"),
    [
        (SUPERVISED, X, rf"{PAIR} \(inputs, targets\), got array"),
        (SUPERVISED, (X,), PAIR),
        (SUPERVISED, (X, Y, jnp.ones(4), Y), PAIR),
        (SUPERVISED, (X, Y, jnp.ones(3)), SHAPES),
        (SUPERVISED, {"a": (X, Y)}, PAIR),
        (SUPERVISED, (X, Y[:3]), SHAPES),
        (SUPERVISED, (X[:0], Y[:0]), SHAPES),
        (SUPERVISED, (X, jnp.zeros((), int)), SHAPES),
        (TWO, (X, Y), rf"{NAMED} \{{'a': .*'b': .*got"),
        (TWO, {"a": (X, Y)}, NAMED),
        (TWO, {"a": (X, Y), "c": (X, Y)}, NAMED),
        (TWO, {"a": (X, Y), "b": X}, NAMED),
        (TWO, {"a": (X, Y), "b": (X, Y[:2])}, SHAPES),
        (cv.Autoencoding(cv.Bernoulli()), X, r"A batch of `Autoencoding` must be"),
        (cv.Supervised(cv.Bernoulli()), (X, jnp.zeros((4, 2))), "takes one target per output"),
        (SUPERVISED, (X, Y.astype(float)), r"takes labels as integers, got floats: use `y\.astype"),
        (SUPERVISED, (X, [0] * 40), r"\(\) and 37 more\. Make arrays of lists"),
    ],
)
def test_batches_that_do_not_fit_are_refused(objective, batch, sentence):
    refused(objective, mlp(jnp.tanh), batch, sentence)


def test_batch_norm_is_refused():
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
        refused(SUPERVISED, coupled, (X, Y), r"couples the examples of a batch.*LayerNorm")


@pytest.mark.parametrize("output", [lambda z: (z, z), jnp.argmax])
def test_models_that_return_anything_but_one_array_of_numbers_are_refused(output):
    term = cv.Term(lambda model, x: output(model(x)), cv.Categorical())
    refused(cv.Objective({"a": term}), mlp(jnp.tanh), {"a": (X, Y)}, NUMBERS)


@pytest.mark.parametrize(
    ("trainable", "sentence"),
    [
        (lambda leaf: False, "Select at least one"),
        (lambda leaf: True, "must select only floating-point arrays"),
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
