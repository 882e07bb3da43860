"""If only the curvature is not finite, no step is made, and the result says so."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optax
import pytest

import curvature as cv
from tests.selection import slow_but


class Broken(cv.AbstractPullback):
    """The Fisher matrix, but NaN where `broken` is true, of a classifier with two classes."""

    broken: jax.Array

    def factor(self, likelihood, z, y, *, key=None):
        S = likelihood.fisher_factor(z).as_matrix()
        return lx.MatrixLinearOperator(jnp.where(self.broken, jnp.nan, S))


def natural(broken, curvature=lambda of: of, solver=None, preconditioner=None):
    of = Broken(jnp.asarray(broken))
    if preconditioner is not None:
        parts = {"curvature": cv.GaussNewton(), "preconditioner": preconditioner(of)}
    else:
        parts = {"curvature": curvature(of)}
    return cv.NaturalGradient(
        cv.Supervised(cv.Categorical()), solver=cv.Auto() if solver is None else solver, **parts
    )


CASES = {
    "rows": {"solver": cv.SampleSpace()},
    "CG": {"solver": cv.CG()},
    "Cholesky": {"solver": lx.Cholesky()},
    "KFAC": {"curvature": cv.KFAC},
    "KFAC, factored": {"curvature": lambda of: cv.KFAC(of, damping="factored")},
    "EKFAC": {"curvature": cv.EKFAC},
    "BlockDiagonal": {"curvature": cv.BlockDiagonal},
    "Diagonal": {"curvature": cv.Diagonal},
    "LowRank": {"curvature": lambda of: cv.LowRank(of, 3)},
    "MovingAverage": {"curvature": cv.MovingAverage},
    "CG with a preconditioner": {"solver": cv.CG(), "preconditioner": cv.KFAC},
}
KEY = jax.random.key(2)
QUICK = "CG", "KFAC", "Diagonal"


@pytest.fixture(scope="module")
def problem():
    x = jax.random.normal(jax.random.key(0), (16, 3))
    model = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(1))
    return model, (x, (x[:, 0] > 0).astype(int))


@pytest.mark.parametrize("name", slow_but(QUICK, CASES))
def test_it_rejects_the_step(name, problem):
    """A later step with a finite curvature is the first step of a run without the broken one."""
    model, batch = problem
    broken, sound = (natural(flag, **CASES[name]) for flag in (True, False))
    start = broken.init(model, batch=batch)
    same, state, info = broken.step(model, batch, start, key=KEY)
    assert not info.accepted
    assert "curvature" in cv.RESULTS[info.result]
    assert "not finite" in cv.RESULTS[info.result]
    assert eqx.tree_equal(same, model)
    found, _, _ = sound.step(model, batch, state, key=KEY)
    expected, _, first = sound.step(model, batch, start, key=KEY)
    assert first.accepted
    assert eqx.tree_equal(found, expected)


def test_the_face_of_optax_keeps_the_state_of_the_curvature(problem):
    model, batch = problem
    params = eqx.filter(model, eqx.is_inexact_array)
    transformation = cv.scale_by_curvature(
        cv.Supervised(cv.Categorical()),
        curvature=cv.GaussNewton(),
        preconditioner=cv.KFAC(Broken(jnp.asarray(True))),
        solver=cv.CG(),
        model=model,
        batch=batch,
    )
    state = transformation.init(params)
    _, new = transformation.update(
        optax.tree.ones_like(params), state, params, model=model, batch=batch
    )
    assert eqx.tree_equal(new.curvature, state.curvature)
