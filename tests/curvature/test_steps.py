"""Steps with momentum, a penalty, `FirstExamples` and `MovingAverage`, against dense ones."""

import equinox as eqx
import jax
import numpy as np
import optimistix as optx
import pytest

import curvature as cv
from tests.curvature import cases
from tests.curvature.written import (
    MODELS,
    SOLVERS,
    Written,
    check_step,
    drawn,
    penalised,
    poisoned,
    steps,
    trajectory,
)
from tests.selection import slow_but

pytestmark = pytest.mark.usefixtures("as_installed")

S, STEPS, BAD, DECAY, L2 = 0.5, 5, 2, 0.8, 0.3
# Model, likelihood, curvature, solver; penalty, examples of C, decays of momentum and average.
QUICK = [("one layer", "categorical", "exact_fisher", "Cholesky", L2, 2, DECAY, 0.9)]
ROWS = [
    *QUICK,
    ("one layer", "categorical", "exact_fisher", "sample space", 0.0, None, DECAY, 0.0),
    ("one layer", "categorical", "exact_fisher", "CG", 0.0, None, DECAY, 0.0),
    ("tanh", "gaussian", "true_fisher", "sample space", 0.0, None, DECAY, 0.0),
    ("one layer", "categorical", "exact_fisher", "sample space", 0.0, 2, 0.0, 0.0),
    ("one layer", "categorical", "exact_fisher", "CG", 0.0, 2, 0.0, 0.0),
    # The terms have 5 and 3 examples, so C uses 4 and 3 of them.
    ("several_terms", "categorical", "empirical_fisher", "sample space", 0.0, 4, 0.0, 0.0),
    ("one layer", "categorical", "exact_fisher", "CG", L2, None, 0.0, 0.0),
    ("several_terms", "categorical", "exact_fisher", "sample space", L2, None, 0.0, 0.0),
    ("frozen", "categorical", "empirical_fisher", "Cholesky", L2, None, 0.0, 0.0),
    ("one layer", "categorical", "exact_fisher", "Cholesky", 0.0, None, 0.0, 0.9),
    ("one layer", "categorical", "exact_fisher", "CG", 0.0, None, 0.0, 0.9),
]


@pytest.mark.parametrize(
    ("kind", "likelihood", "name", "solver", "l2", "first", "decay", "average"),
    slow_but(QUICK, ROWS),
)
def test_steps_solve_their_equation(x64, kind, likelihood, name, solver, l2, first, decay, average):
    """(C + l2 I + λI) d = g + λμφ, with φ = 0 at first and after step `BAD`, which is rejected.

    The average of C leaves the batch of the rejected step out.
    """
    case, keys = MODELS[kind](likelihood), jax.random.split(jax.random.key(5), STEPS)
    curvature = cases.curvature(name, likelihood)
    curvature = curvature if first is None else cv.FirstExamples(curvature, first)
    optimiser = cv.NaturalGradient(
        penalised(case, l2) if l2 else case.objective,
        curvature=cv.MovingAverage(curvature, average) if average else curvature,
        solver=SOLVERS[solver],
        damping=cv.LevenbergMarquardt(0.03),
        search=optx.LearningRate(S),
        momentum=cv.Spring(decay) if decay else cv.NoMomentum(),
    )
    ws, infos = trajectory(case, optimiser, keys, poisoned(case, STEPS, BAD))
    written = Written(case, "exact_fisher" if name == "true_fisher" else name, l2, first)
    matrix = drawn(case, keys) if name == "true_fisher" else lambda w, k: written(w)[2]
    last, matrices = np.zeros(len(written.w)), []
    for k, w, new, info in steps(ws, infos):
        assert info.accepted == (k != BAD)
        if k == BAD:
            assert np.array_equal(new, w)
            last = np.zeros_like(w)
            continue
        (_, g, _), damping = written(w), float(info.damping)
        matrices.append(matrix(w, k))
        shares = average ** np.arange(len(matrices))[::-1]
        C = np.tensordot(shares / shares.sum(), matrices, 1) + l2 * np.eye(len(w))
        last = np.linalg.solve(C + damping * np.eye(len(w)), g + damping * decay * last)
        check_step(info, w, new, written, C, f"step {k}", w - S * last)
        assert info.solver_residual < 1e-10


# --- the average of C --------------------------------------------------------------------------


def test_the_average_reduces_the_noise_of_sampled_targets(x64):
    """At constant weights the average over t draws has a variance that is t times smaller."""
    case = MODELS["one layer"]("categorical")
    curvature = cv.MovingAverage(cv.SampledFisher(), 0.999)

    @eqx.filter_jit
    def run(model):
        here = case.objective.linearise(model, case.batch)

        def body(state, key):
            operator, state = curvature.update(here, state, key=key)
            drawn = curvature.of.operator(here, key=key)
            return state, (operator.as_matrix(), drawn.as_matrix())

        keys = jax.random.split(jax.random.key(0), 64)
        return jax.lax.scan(body, curvature.init(here), keys)[1]

    (averages, drawn), written = map(np.asarray, run(case.model)), Written(case, "exact_fisher")
    _, _, C = written(written.w)
    noise = np.sqrt(np.mean(np.sum((drawn - C) ** 2, axis=(1, 2))))
    assert np.linalg.norm(averages[63] - C) == pytest.approx(noise / 8, rel=0.25)


def test_refuses_a_model_too_large_for_a_dense_matrix_and_no_batch():
    case = cases.supervised(
        eqx.nn.Linear(100, 100, key=jax.random.key(0)),
        "gaussian",
        inputs=(100,),
        outputs=(100,),
    )
    opt = cv.NaturalGradient(case.objective, cv.MovingAverage(cv.GaussNewton()))
    with pytest.raises(ValueError, match="at most 8,192 trainable weights, got 10,100"):
        opt.init(case.model, batch=case.batch)
    with pytest.raises(ValueError, match=r"Pass a batch, `opt.init\(model, batch=batch\)`"):
        opt.init(case.model)
