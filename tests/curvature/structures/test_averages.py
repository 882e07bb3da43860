"""The state of K-FAC and EKFAC: averages, recomputed bases, and batches that are not finite."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
from curvature.curvatures._average import Average
from tests.curvature import cases
from tests.curvature.tools import distance
from tests.curvature.written import one_layer
from tests.selection import slow_but

DECAY, EVERY, BAD = 0.8, 3, 2


def factors(W, x):
    """G, A and the rows for z = tanh(W x) with Gaussian outputs, from their formulas."""
    slopes = 1 - np.tanh(x @ W.T) ** 2
    A = x.T @ x / len(x)
    G = np.diag(np.mean(slopes**2 / cases.VARIANCE, axis=0))
    rows = np.einsum("no,oO,ni->noOi", slopes / np.sqrt(cases.VARIANCE * len(x)), np.eye(3), x)
    return G, A, rows.reshape(-1, W.size)


def trajectory(structure, model, batches):
    objective = cv.Supervised(cases.library("gaussian"))

    @eqx.filter_jit
    def run(model, batches):
        def body(state, batch):
            here = objective.linearise(model, batch)
            operator, state = structure.update(here, state)
            return state, (operator.as_matrix(), state)

        first = jax.tree.map(lambda leaf: leaf[0], batches)
        start = structure.init(objective.linearise(model, first))
        return jax.lax.scan(body, start, batches)[1]

    return run(model, batches)


def test_averages_of_first_examples_are_those_of_a_smaller_batch(x64):
    rng = np.random.default_rng(0)
    batches = jnp.asarray(rng.normal(size=(4, 5, 3))), jnp.zeros((4, 5, 3))
    fewer = jax.tree.map(lambda array: array[:, :2], batches)
    kfac = cv.KFAC(cv.GaussNewton(), decay=DECAY)
    of_first, _ = trajectory(cv.FirstExamples(kfac, 2), one_layer(), batches)
    of_all, _ = trajectory(kfac, one_layer(), fewer)
    assert distance(of_first, of_all) <= 1e-12


@pytest.mark.parametrize("damping", slow_but(["exact"], ["exact", "factored"]))
def test_the_layers_are_refreshed_one_after_the_other(x64, damping):
    """All layers are refreshed at the first three steps.

    Then each layer is refreshed at every fourth step, and the two layers at different steps.
    """
    model = eqx.nn.MLP(2, 1, 2, 1, key=jax.random.key(0))
    batch = jax.random.normal(jax.random.key(1), (3, 2)), jnp.zeros((3, 1))
    kfac = cv.KFAC(cv.GaussNewton(), decay=DECAY, every=4, damping=damping)
    opt = cv.NaturalGradient(cv.Supervised(cv.Gaussian()), kfac, damping=0.1)
    state, renewed = opt.init(model, batch=batch), []
    for step in range(11):
        of_step = jax.tree.map(lambda x, step=step: x + 0.1 * step, batch)
        model, new, _ = opt.step(model, of_step, state)
        pair = (state.curvature, new.curvature)
        made = [s.bases.layers if damping == "exact" else s.inverses for s in pair]
        renewed.append([not eqx.tree_equal(old, one) for old, one in zip(*made, strict=True)])
        state = new
    first, second = ([i for i, of in enumerate(renewed) if of[layer]] for layer in (0, 1))
    assert first == [0, 1, 2, 4, 8]
    assert second == [0, 1, 2, 6, 10]


@pytest.mark.parametrize("structure", [cv.KFAC, cv.EKFAC])
def test_factors_and_eigenvalues_are_their_weighted_averages(x64, structure):
    """The bases are recomputed at the first three finite batches and at every third one.

    At the other batches the average of s continues.
    """
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 5, 3)), jnp.zeros((8, 5, 3))
    x[BAD] = np.nan
    model = one_layer()
    batches = jnp.asarray(x), y
    matrices, states = trajectory(
        structure(cv.GaussNewton(), decay=DECAY, every=EVERY), model, batches
    )
    W = np.asarray(model.linear.weight)
    seen_A, seen_G, squares, count, expected = [], [], [], 0, None
    for step, matrix in enumerate(np.asarray(matrices)):
        if step == BAD:
            for array in jax.tree.leaves(states):
                assert np.array_equal(array[step], array[step - 1])
            continue
        G, A, rows = factors(W, x[step])
        seen_A.append(A), seen_G.append(G)
        shares = DECAY ** np.arange(len(seen_A))[::-1]
        A, G = (np.einsum("t,tij->ij", shares, seen) / shares.sum() for seen in (seen_A, seen_G))
        anew = count < 3 or count % EVERY == 0
        if anew:
            U, squares = np.kron(np.linalg.eigh(G)[1], np.linalg.eigh(A)[1]), []
        if structure is cv.KFAC:
            expected = np.kron(G, A) if anew else expected
        else:
            squares.append(np.sum((rows @ U) ** 2, axis=0))
            shares = DECAY ** np.arange(len(squares))[::-1]
            expected = U @ np.diag(shares @ np.asarray(squares) / shares.sum()) @ U.T
        assert distance(matrix, expected) <= 1e-12, step
        count += 1
    assert count == len(x) - 1


def test_without_an_average_nothing_of_an_earlier_batch_is_left():
    """In float32 the earlier value is so large that the new one is below its rounding error."""
    average = Average.zeros(jnp.zeros(()))
    for value in (1e8, 1.0):
        average = average.update(jnp.float32(value), 0.0)
    assert average.value(0.0) == 1


def test_the_state_keeps_its_types(x64):
    """A changed dtype or weak type would cause a second trace after a restart from a checkpoint."""
    case = cases.supervised(one_layer(), "categorical")
    optimiser = cv.NaturalGradient(
        case.objective, cv.EKFAC(cv.SampledFisher()), damping=cv.LevenbergMarquardt(0.1)
    )
    state = optimiser.init(case.model, batch=jax.eval_shape(lambda: case.batch))
    _, new, info = optimiser.step(case.model, case.batch, state, key=jax.random.key(0))
    assert info.accepted
    assert jax.tree.map(jax.typeof, new) == jax.tree.map(jax.typeof, state)


def stepped(structure):
    """The loss after a step, as a function of λ and of a factor that scales all weights."""
    case = cases.supervised(one_layer(), "categorical")

    def loss(damping, factor):
        C = structure(cv.GaussNewton())
        optimiser = cv.NaturalGradient(case.objective, C, cv.Structured(), damping=damping)
        model = jax.tree.map(lambda w: factor * w if eqx.is_inexact_array(w) else w, case.model)
        state = optimiser.init(model, batch=case.batch)
        return case.objective.loss(optimiser.step(model, case.batch, state)[0], case.batch)

    return loss


DERIVATIVES = [(cv.KFAC, (0,)), (cv.EKFAC, (0,)), (cv.BlockDiagonal, (0, 1))]


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(("structure", "of"), slow_but(DERIVATIVES[:1], DERIVATIVES))
def test_a_step_has_its_derivatives(x64, structure, of):
    """The derivatives are in λ and, for exact blocks, also in the scale of the weights."""
    loss, at, step = jax.jit(stepped(structure)), np.asarray([0.1, 1.0]), 1e-5
    found = jax.jit(jax.grad(stepped(structure), argnums=of))(*at)
    for j, derivative in zip(of, found, strict=True):
        along = step * np.eye(2)[j]
        expected = (loss(*(at + along)) - loss(*(at - along))) / (2 * step)
        assert np.isclose(derivative, expected, rtol=1e-6)


def test_a_derivative_in_the_weights_is_refused(x64):
    with pytest.raises(ValueError, match="`KFAC` has no derivative in the weights"):
        jax.eval_shape(jax.grad(stepped(cv.KFAC), argnums=1), 0.1, 1.0)
