"""Natural gradient and the empirical Fisher, on models whose outputs are affine in the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
from experiments.kunstner import problems
from experiments.kunstner.field import fields
from experiments.kunstner.newton import iterates
from experiments.kunstner.report import newton_table, scaling_table
from experiments.kunstner.scaling import DISTANCES, scalings
from tests.selection import slow_but

PROBLEMS = {"wine": problems.wine, "breast_cancer": problems.breast_cancer}

pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture(params=slow_but(["wine"], PROBLEMS))
def problem(request):
    return PROBLEMS[request.param]()


def test_natural_gradient_is_newton_at_every_step(problem):
    found = iterates(problem)
    assert max(it.deviation for it in found) < 1e-8
    losses = [it.loss for it in found]
    assert losses[-1] == pytest.approx(float(problem.loss(problem.optimum())), abs=1e-14)
    assert losses[0] < problem.loss(problem.start)


def test_at_the_optimum_the_gradient_is_zero_and_the_hessian_positive(problem):
    optimum = problem.optimum()
    assert jnp.linalg.norm(jax.jit(jax.grad(problem.loss))(optimum)) < 1e-12
    assert jnp.linalg.eigvalsh(jax.jit(jax.hessian(problem.loss))(optimum))[0] > 1e-6


def test_least_squares_is_solved_by_one_step():
    wine = problems.wine()
    x, y = (np.asarray(array) for array in wine.batch)
    columns = np.hstack([x, np.ones((len(x), 1))])
    residual = np.linalg.lstsq(columns, y[:, 0])[0] @ columns.T - y[:, 0]
    assert iterates(wine, steps=1)[0].loss == pytest.approx(np.mean(residual**2) / 2, rel=1e-12)


@pytest.mark.slow
def test_the_empirical_fisher_is_misscaled_near_the_optimum_for_every_damping(problem):
    found = scalings(problem)
    newton, empirical = found[: len(DISTANCES)], found[len(DISTANCES) :]
    assert [n.length for n in newton] == pytest.approx([1] * len(DISTANCES), rel=1e-10)
    near = min(DISTANCES)
    assert newton[-1].best_step == pytest.approx(1, abs=5e-3)
    assert newton[-1].remaining < 1e-4
    for scaling in empirical:
        # The best step size along d leaves no more of the loss than the step size 1.
        assert scaling.remaining_at_best <= scaling.remaining
        if scaling.distance == near:
            assert scaling.remaining > 0.2
            assert scaling.remaining_at_best > 0.1
            assert abs(np.log(scaling.best_step)) > np.log(1.3)


@pytest.mark.slow
def test_the_best_step_is_the_minimum_along_the_direction():
    line = problems.line()
    first = scalings(line)[len(DISTANCES)]
    matrix, grad = line.matrix(cv.EmpiricalFisher(), line.start)
    d = jnp.linalg.solve(matrix, grad)
    assert first.distance == 1
    # The loss is a parabola along d.
    curvature = d @ jax.hessian(line.loss)(line.start) @ d
    np.testing.assert_allclose(first.best_step, d @ grad / curvature, rtol=1e-10)


@pytest.mark.slow
def test_the_paths_of_natural_gradient_are_straight_and_all_lead_to_the_optimum():
    line = problems.line()
    optimum = np.asarray(line.optimum())
    found = fields(line)
    for field in found.values():
        for start, path in zip(field.paths[:, 0], field.paths, strict=True):
            after, before = (line.loss(jnp.asarray(w)) for w in (path[-1], start))
            assert after < before
    for path in found["natural gradient"].paths:
        np.testing.assert_allclose(path[-1], optimum, atol=1e-6)
        along = (path[0] - optimum) / np.linalg.norm(path[0] - optimum)
        across = (path - optimum) @ np.array([-along[1], along[0]])
        np.testing.assert_allclose(across, 0, atol=1e-9)


@pytest.mark.slow
def test_the_tables_have_a_row_for_every_step_and_damping():
    line = problems.line()
    assert len(newton_table({"a": iterates(line, 3)}).splitlines()) == 2 + 3
    found = scalings(line)
    assert len(scaling_table(found).splitlines()) == 2 + len(found) // len(DISTANCES)
