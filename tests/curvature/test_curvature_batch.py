"""C of the first examples of a batch, the gradient of all of them."""

import equinox as eqx
import jax
import numpy as np
import optimistix as optx
import pytest

import curvature as cv
from tests.curvature import cases
from tests.curvature.written import MODELS, SOLVERS, Written, check_step, steps, trajectory
from tests.selection import slow_but

# Type checks of every call would double the time of a trace.
pytestmark = pytest.mark.usefixtures("as_installed")

# One with a penalty and momentum is in `test_momentum`, for the quick run.
S, STEPS = 0.5, 2
CASES = [
    *(("one layer", "exact_fisher", 2, solver) for solver in ("sample space", "CG")),
    ("several_terms", "empirical_fisher", 4, "sample space"),
]


@pytest.mark.parametrize(("kind", "name", "first", "solver"), slow_but([], CASES))
def test_steps_are_those_written_densely(x64, kind, name, first, solver):
    """Of terms with 5 and 3 examples the first 4 are 4 and 3."""
    case = MODELS[kind]("categorical")
    optimiser = cv.NaturalGradient(
        case.objective,
        curvature=cv.FirstExamples(cases.curvature(name, "categorical"), first),
        solver=SOLVERS[solver],
        damping=cv.LevenbergMarquardt(0.03),
        search=optx.LearningRate(S),
    )
    ws, infos = trajectory(case, optimiser, jax.random.split(jax.random.key(0), STEPS))
    written = Written(case, name, first=first)
    for k, w, new, info in steps(ws, infos):
        _, g, C = written(w)
        d = np.linalg.solve(C + float(info.damping) * np.eye(len(w)), g)
        check_step(info, w, new, written, C, f"step {k}", w - S * d)


def test_more_than_the_batch_has_is_all_of_it(x64):
    """And costs nothing: the same program."""
    case, whole = MODELS["one layer"]("categorical"), cv.ExactFisher()

    def program(curvature):
        def product(model):
            here = case.objective.linearise(model, case.batch)
            return curvature.operator(here).mv(here.grad)

        shapes = eqx.filter(case.model, eqx.is_array)
        return jax.jit(product).lower(shapes).as_text()

    assert program(whole) == program(cv.FirstExamples(whole, 5))
    assert program(whole) == program(cv.FirstExamples(whole, 100))
    assert program(whole) != program(cv.FirstExamples(whole, 4))
