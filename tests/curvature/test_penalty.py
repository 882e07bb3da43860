"""An objective with an `l2`: its loss, gradient and steps against dense ones."""

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import optimistix as optx
import pytest

import curvature as cv
from tests.curvature import cases
from tests.curvature.written import Written, at, trajectory
from tests.selection import slow_but

L2, S, STEPS = 0.3, 0.5, 3
SOLVERS = {
    "sample space": cv.SampleSpace(),
    "Cholesky": lx.Cholesky(),
    "CG": cv.CG(rtol=1e-13, max_steps=500),
}
SUPERVISED = cv.Supervised(cv.Categorical())


def penalised(case, l2=L2):
    objective = case.objective
    if isinstance(objective, cv.Objective):
        return cv.Objective(objective.by_name, l2=l2)
    return type(objective)(objective.likelihood, l2=l2)


@pytest.mark.parametrize("kind", ["tanh", "frozen", "several_terms", "autoencoder"])
def test_loss_and_gradient_are_those_written_densely(x64, kind):
    """The penalty is of all weights, frozen ones too; the gradient of those that are trained."""
    case = cases.MODELS[kind]("categorical")
    loss, g, _ = Written(case, "exact_fisher", l2=L2)(Written(case, "exact_fisher").w)
    objective = penalised(case)

    @jax.jit
    def run():
        linearisation = objective.linearise(case.model, case.batch, trainable=case.trainable)
        return objective.loss(case.model, case.batch), linearisation.loss, linearisation.grad

    found, linearised, grad = run()
    np.testing.assert_allclose(found, loss, rtol=1e-12)
    np.testing.assert_allclose(linearised, loss, rtol=1e-12)
    np.testing.assert_allclose(jfu.ravel_pytree(grad)[0], g, rtol=1e-10, atol=1e-13)


CASES = [
    ("several_terms", "exact_fisher"),
    ("frozen", "empirical_fisher"),
    ("autoencoder", "gauss_newton"),
]


@pytest.mark.parametrize(
    ("kind", "curvature"),
    slow_but([CASES[0]], CASES),
)
def test_steps_are_those_with_the_penalty_in_loss_and_curvature(x64, kind, curvature):
    """(C + l2 I + λI) d = g, and a quadratic model with C + l2 I, by every solver."""
    case = cases.MODELS[kind]("categorical")

    @jax.jit
    def run():
        found = {}
        for solver in SOLVERS:
            optimiser = cv.NaturalGradient(
                penalised(case),
                curvature=cases.curvature(curvature, "categorical"),
                solver=SOLVERS[solver],
                damping=cv.LevenbergMarquardt(0.03),
                search=optx.LearningRate(S),
            )
            found[solver] = trajectory(case, optimiser, jax.random.split(jax.random.key(0), STEPS))
        return found

    written = Written(case, curvature, l2=L2)
    for solver, (ws, infos) in run().items():
        for k, (w, new) in enumerate(zip(np.asarray(ws)[:-1], np.asarray(ws)[1:], strict=True)):
            info, (loss, g, C), message = at(infos, k), written(w), f"{solver}, step {k}"
            H = C + L2 * np.eye(len(w))
            d = np.linalg.solve(H + float(info.damping) * np.eye(len(w)), g)
            np.testing.assert_allclose(w - new, S * d, rtol=1e-7, atol=1e-10, err_msg=message)
            metric = S**2 * d @ H @ d / 2
            ratio = (loss - written.loss(new)) / (S * d @ g - metric)
            expected = {
                "loss": loss,
                "grad_norm": np.linalg.norm(g),
                "step_norm": S * np.linalg.norm(d),
                "metric_step": metric,
                "reduction_ratio": ratio,
            }
            for field, value in expected.items():
                found = getattr(info, field)
                np.testing.assert_allclose(found, value, rtol=1e-6, err_msg=f"{message}: {field}")
            assert info.solver_residual < 1e-10
            assert info.accepted


def test_first_order_follows_the_penalised_gradient(x64):
    case = cases.frozen("categorical")
    written = Written(case, "exact_fisher", l2=L2)
    loss, g, _ = written(written.w)
    optimiser = cv.FirstOrder(penalised(case), optax.sgd(0.1))
    state = optimiser.init(case.model, case.trainable)
    new, _, info = optimiser.step(case.model, case.batch, state)
    found = jfu.ravel_pytree(eqx.filter(new, case.trainable))[0]
    np.testing.assert_allclose(found, written.w - 0.1 * g, rtol=1e-10)
    np.testing.assert_allclose(info.loss, loss, rtol=1e-12)
    kept = (eqx.filter(model, case.trainable, inverse=True) for model in (new, case.model))
    assert eqx.tree_equal(*kept)


def test_weights_that_are_all_zero_have_a_gradient(x64):
    """½ l2 ‖w‖² is smooth there, which the norm ‖w‖ is not."""
    model = jax.tree.map(lambda a: jnp.zeros_like(a), eqx.nn.Linear(3, 2, key=jax.random.key(0)))
    batch = jnp.ones((4, 3)), jnp.asarray([0, 1, 1, 1])
    objective = cv.Supervised(cv.Categorical(), l2=L2)
    optimiser = cv.FirstOrder(objective, optax.sgd(0.1))
    _, _, info = optimiser.step(model, batch, optimiser.init(model))
    assert info.accepted
    np.testing.assert_allclose(
        info.grad_norm, objective.linearise(model, batch).grad.bias[0] * 8**0.5
    )


@pytest.mark.parametrize("l2", [np.float32(L2), np.float64(L2), 1, jnp.asarray(L2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_penalty_does_not_change_the_dtype(x64, l2, dtype):
    model = eqx.nn.Linear(3, 2, dtype=dtype, key=jax.random.key(0))
    batch = jnp.ones((4, 3), dtype), jnp.asarray([0, 1, 1, 1])
    objective = cv.Supervised(cv.Categorical(), l2=l2)
    linearisation = jax.eval_shape(lambda: objective.linearise(model, batch).grad)
    loss = jax.eval_shape(lambda: objective.loss(model, batch))
    assert loss.dtype == linearisation.weight.dtype == linearisation.bias.dtype == dtype
    optimiser = cv.NaturalGradient(
        objective, momentum=cv.Spring(np.float32(0.9)), damping=np.float64(0.1)
    )
    state = optimiser.init(model)
    new, after, _ = eqx.filter_eval_shape(optimiser.step, model, batch, state)
    for one, other in ((new, model), (after, state)):
        pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
        assert all(a.dtype == b.dtype for a, b in pairs if eqx.is_array(b))


def test_no_penalty_costs_nothing():
    model, batch = (
        eqx.nn.Linear(30, 20, key=jax.random.key(0)),
        (jnp.ones((2, 30)), jnp.ones(2, int)),
    )

    def operations(objective):
        compiled = jax.jit(lambda model: objective.loss(model, batch)).lower(model).compile()
        return compiled.cost_analysis()["flops"]

    costs = [operations(cv.Supervised(cv.Categorical(), l2=l2)) for l2 in (None, 0.0, 0.1)]
    # A product and a sum per weight, where there is one.
    assert costs[0] + 2 * 620 <= costs[1] <= costs[2]


@pytest.mark.parametrize("l2", [-0.1, float("nan"), float("inf"), np.ones(2), "0.1"])
@pytest.mark.parametrize(
    "objective",
    [
        lambda l2: cv.Supervised(cv.Categorical(), l2=l2),
        lambda l2: cv.Autoencoding(cv.Bernoulli(), l2=l2),
        lambda l2: cv.Objective({"a": cv.Term(lambda m, x: m(x), cv.Gaussian())}, l2=l2),
    ],
)
def test_it_refuses(as_installed, objective, l2):
    with pytest.raises(ValueError, match=r"`l2=...` must be a finite number ≥ 0, got"):
        objective(l2)
