"""The average of the metric over the steps, against dense matrices."""

import equinox as eqx
import jax
import numpy as np
import pytest

import curvature as cv
from tests.curvature import cases
from tests.curvature.written import (
    MODELS,
    SOLVERS,
    Written,
    check_step,
    poisoned,
    steps,
    trajectory,
)
from tests.selection import slow_but

DECAY, DAMPING, STEPS, BAD = 0.9, 0.1, 4, 2


@pytest.mark.parametrize("solver", slow_but(["Cholesky"], ["Cholesky", "CG"]))
def test_steps_are_those_of_the_average(x64, solver):
    """A batch that is not finite leaves the average as it was."""
    case = MODELS["one layer"]("categorical")
    optimiser = cv.NaturalGradient(
        case.objective,
        cv.MovingAverage(cv.ExactFisher(), DECAY),
        solver=SOLVERS[solver],
        damping=cv.LevenbergMarquardt(DAMPING),
    )
    keys = jax.random.split(jax.random.key(0), STEPS)
    ws, infos = trajectory(case, optimiser, keys, poisoned(case, STEPS, BAD))
    written, metrics = Written(case, "exact_fisher"), []
    for k, w, new, info in steps(ws, infos):
        assert info.accepted == (k != BAD)
        if k == BAD:
            np.testing.assert_array_equal(new, w)
            continue
        _, g, C = written(w)
        metrics.append(C)
        shares = DECAY ** np.arange(len(metrics))[::-1]
        average = sum(a * C for a, C in zip(shares, metrics, strict=True)) / sum(shares)
        d = np.linalg.solve(average + float(info.damping) * np.eye(len(w)), g)
        check_step(info, w, new, written, average, f"step {k}", w - d)


def test_it_averages_away_the_noise_of_sampled_targets(x64):
    """At weights that stand still, t draws of the targets have a variance t times smaller."""
    case = MODELS["one layer"]("categorical")
    curvature = cv.MovingAverage(cv.SampledFisher(), 0.999)

    @eqx.filter_jit
    def run(model):
        here = case.objective.linearise(model, case.batch)

        def body(state, key):
            operator, state = curvature.update(here, state, key=key)
            return state, operator.as_matrix()

        keys = jax.random.split(jax.random.key(0), 64)
        return jax.lax.scan(body, curvature.init(here), keys)[1]

    averages, written = np.asarray(run(case.model)), Written(case, "exact_fisher")
    _, _, C = written(written.w)
    assert np.linalg.norm(averages[63] - C) < np.linalg.norm(averages[0] - C) / 4


def test_refuses_a_model_too_large_for_a_dense_matrix_and_no_batch():
    case = cases.supervised(
        eqx.nn.Linear(100, 100, key=jax.random.key(0)),
        "gaussian",
        inputs=(100,),
        outputs=(100,),
    )
    opt = cv.NaturalGradient(case.objective, cv.MovingAverage(cv.GaussNewton()))
    with pytest.raises(ValueError, match="for at most 8,192 trainable weights, got 10,100"):
        opt.init(case.model, batch=case.batch)
    with pytest.raises(ValueError, match=r"pass a batch, `opt.init\(model, batch=batch\)`"):
        opt.init(case.model)
