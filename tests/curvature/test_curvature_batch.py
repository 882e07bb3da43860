"""C of the first examples of a batch, the gradient of all of them."""

import jax
import lineax as lx
import numpy as np
import optimistix as optx
import pytest

import curvature as cv
from tests.curvature import cases
from tests.curvature.written import Written, at, trajectory
from tests.selection import slow_but

S, STEPS = 0.5, 2
SOLVERS = {
    "sample space": cv.SampleSpace(),
    "Cholesky": lx.Cholesky(),
    "CG": cv.CG(rtol=1e-13, max_steps=500),
}


def optimiser(case, name, solver, **settings):
    return cv.NaturalGradient(
        case.objective,
        curvature=cases.curvature(name, "categorical"),
        solver=solver,
        damping=cv.LevenbergMarquardt(0.03),
        search=optx.LearningRate(S),
        **settings,
    )


def steps(case, optimiser):
    return trajectory(case, optimiser, jax.random.split(jax.random.key(0), STEPS))


CASES = [("tanh", "exact_fisher", 2), ("several_terms", "empirical_fisher", 4)]


@pytest.mark.parametrize(("kind", "name", "first"), slow_but(CASES[1:], CASES))
def test_steps_are_those_written_densely(x64, kind, name, first):
    """Of terms with 5 and 3 examples the first 4 are 4 and 3."""
    case = cases.MODELS[kind]("categorical")

    @jax.jit
    def run():
        return {
            solver: steps(case, optimiser(case, name, SOLVERS[solver], curvature_batch=first))
            for solver in SOLVERS
        }

    written = Written(case, name, curvature_batch=first)
    for solver, (ws, infos) in run().items():
        for k, (w, new) in enumerate(zip(np.asarray(ws)[:-1], np.asarray(ws)[1:], strict=True)):
            info, (loss, g, C), message = at(infos, k), written(w), f"{solver}, step {k}"
            d = np.linalg.solve(C + float(info.damping) * np.eye(len(w)), g)
            np.testing.assert_allclose(w - new, S * d, rtol=1e-7, atol=1e-10, err_msg=message)
            metric = S**2 * d @ C @ d / 2
            ratio = (loss - written.loss(new)) / (S * d @ g - metric)
            np.testing.assert_allclose(info.grad_norm, np.linalg.norm(g), rtol=1e-8)
            np.testing.assert_allclose(info.metric_step, metric, rtol=1e-6, err_msg=message)
            np.testing.assert_allclose(info.reduction_ratio, ratio, rtol=1e-6, err_msg=message)


@pytest.mark.parametrize("first", [5, 100])
def test_more_than_the_batch_has_is_all_of_it(x64, first):
    """And costs nothing: the same program."""
    case = cases.tanh("categorical")

    def program(**settings):
        whole = optimiser(case, "exact_fisher", cv.SampleSpace(), **settings)
        return jax.jit(lambda: steps(case, whole)[0]).lower().as_text()

    assert program() == program(curvature_batch=first)


@pytest.mark.parametrize("first", [0, -1, 2.5, True])
def test_it_refuses(as_installed, first):
    with pytest.raises(ValueError, match=r"`NaturalGradient\(curvature_batch=...\)` must be a pos"):
        cv.NaturalGradient(cv.Supervised(cv.Categorical()), curvature_batch=first)
