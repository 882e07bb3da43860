"""Steps with momentum, with a penalty, and with C of a part of the batch, against dense ones."""

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

# Type checks of every call would double the time of a trace.
pytestmark = pytest.mark.usefixtures("as_installed")

S, STEPS, BAD, DECAY, L2 = 0.5, 5, 2, 0.8, 0.3
# Model, likelihood, curvature, solver; penalty, examples of the curvature, decay of the momentum.
QUICK = [("one layer", "categorical", "exact_fisher", "Cholesky", L2, 2, DECAY)]
ROWS = [
    *QUICK,
    ("one layer", "categorical", "exact_fisher", "sample space", 0.0, None, DECAY),
    ("one layer", "categorical", "exact_fisher", "CG", 0.0, None, DECAY),
    ("tanh", "gaussian", "true_fisher", "sample space", 0.0, None, DECAY),
    ("one layer", "categorical", "exact_fisher", "sample space", 0.0, 2, 0.0),
    ("one layer", "categorical", "exact_fisher", "CG", 0.0, 2, 0.0),
    # Of terms with 5 and 3 examples the first 4 are 4 and 3.
    ("several_terms", "categorical", "empirical_fisher", "sample space", 0.0, 4, 0.0),
    ("one layer", "categorical", "exact_fisher", "CG", L2, None, 0.0),
    ("several_terms", "categorical", "exact_fisher", "sample space", L2, None, 0.0),
    ("frozen", "categorical", "empirical_fisher", "Cholesky", L2, None, 0.0),
]


@pytest.mark.parametrize(
    ("kind", "likelihood", "name", "solver", "l2", "first", "decay"), slow_but(QUICK, ROWS)
)
def test_steps_solve_their_equation(x64, kind, likelihood, name, solver, l2, first, decay):
    """(C + l2 I + λI) d = g + λμφ, with φ = 0 at first and after the rejection of step 2."""
    case, keys = MODELS[kind](likelihood), jax.random.split(jax.random.key(5), STEPS)
    curvature = cases.curvature(name, likelihood)
    optimiser = cv.NaturalGradient(
        penalised(case, l2) if l2 else case.objective,
        curvature=curvature if first is None else cv.FirstExamples(curvature, first),
        solver=SOLVERS[solver],
        damping=cv.LevenbergMarquardt(0.03),
        search=optx.LearningRate(S),
        momentum=cv.Spring(decay) if decay else cv.NoMomentum(),
    )
    ws, infos = trajectory(case, optimiser, keys, poisoned(case, STEPS, BAD))
    written = Written(case, "exact_fisher" if name == "true_fisher" else name, l2, first)
    matrix = drawn(case, keys) if name == "true_fisher" else lambda w, k: written(w)[2]
    last = np.zeros(len(written.w))
    for k, w, new, info in steps(ws, infos):
        assert info.accepted == (k != BAD)
        if k == BAD:
            assert np.array_equal(new, w)
            last = np.zeros_like(w)
            continue
        (_, g, _), damping = written(w), float(info.damping)
        C = matrix(w, k) + l2 * np.eye(len(w))
        last = np.linalg.solve(C + damping * np.eye(len(w)), g + damping * decay * last)
        check_step(info, w, new, written, C, f"step {k}", w - S * last)
        assert info.solver_residual < 1e-10
