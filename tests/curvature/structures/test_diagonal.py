"""`cv.Diagonal`: the diagonal of the dense C, its average over batches and its solve."""

import functools

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
import pytest

import curvature as cv
from tests.curvature import cases, dense
from tests.curvature.structures import laws
from tests.curvature.tools import cast, distance
from tests.curvature.written import Written, check_step, one_layer, poisoned, steps, trajectory
from tests.selection import slow_but

KEY = jax.random.key(3)
DECAY = 0.8


@functools.cache
def evaluated(model, likelihood, names):
    with jax.enable_x64(True):
        return laws.evaluated(model, likelihood, cv.Diagonal, KEY, names=names)


@pytest.mark.parametrize(("model", "likelihood", "names"), slow_but(laws.QUICK, laws.ROWS))
def test_it_is_the_diagonal_of_the_dense_matrix(x64, model, likelihood, names):
    found = evaluated(model, likelihood, names)
    assert set(laws.TWO) <= set(found)
    for name, (operator, C) in found.items():
        assert np.linalg.norm(C) > 0, name
        assert distance(laws.ravelled(operator.values), np.diag(C)) <= 1e-10, name


def test_products_and_inverses_are_those_of_its_matrix(x64):
    operator, C = evaluated(*laws.QUICK[0])["gauss_newton"]
    assert lx.is_diagonal(operator)
    assert operator.in_structure() == operator.out_structure()
    assert np.array_equal(operator.as_matrix(), np.diag(laws.ravelled(operator.values)))
    assert distance(operator.as_matrix(), np.diag(np.diag(C))) <= 1e-10
    laws.check_operator(operator, condition=False)


def layer(likelihood="categorical"):
    return cases.supervised(one_layer(), likelihood)


def test_a_step_uses_the_average_over_the_batches_so_far(x64):
    """The average is Σ_s β^(t−s) diag(C_s) / Σ_s β^(t−s), without the batch that is NaN."""
    case, bad, s = layer(), 1, 0.5
    optimiser = cv.NaturalGradient(
        case.objective,
        curvature=cv.Diagonal(cv.GaussNewton(), DECAY),
        damping=cv.LevenbergMarquardt(0.03),
        search=optx.LearningRate(s),
    )
    keys = jax.random.split(KEY, 4)
    ws, infos = trajectory(case, optimiser, keys, poisoned(case, 4, bad))
    written, diagonals = Written(case, "gauss_newton"), []
    for k, w, new, info in steps(ws, infos):
        assert info.accepted == (k != bad)
        if k == bad:
            assert np.array_equal(new, w)
            continue
        _, g, C = written(w)
        diagonals.append(np.diag(C))
        shares = DECAY ** np.arange(len(diagonals))[::-1]
        D = shares @ np.asarray(diagonals) / shares.sum()
        expected = w - s * g / (D + float(info.damping))
        check_step(info, w, new, written, np.diag(D), f"step {k}", expected)
        assert info.solver_residual < 1e-14


@pytest.mark.parametrize("decay", [0.0, 0.8, 0.999])
def test_a_batch_that_is_not_finite_leaves_the_state(x64, decay):
    case = layer()
    structure = cv.Diagonal(cv.GaussNewton(), decay)

    @jax.jit
    def run(inputs):
        def body(state, x):
            here = case.objective.linearise(case.model, (x, case.batch[1]))
            alone = structure.operator(here)
            operator, state = structure.update(here, state)
            return state, (alone.diagonal(), operator.diagonal(), state)

        start = structure.init(case.objective.linearise(case.model, case.batch))
        return jax.lax.scan(body, start, inputs)[1]

    x = case.batch[0]
    inputs = jnp.stack([jnp.full_like(x, jnp.nan), x, 2 * x, jnp.full_like(x, jnp.inf), 3 * x])
    alone, averages, states = jax.tree.map(np.asarray, run(inputs))
    assert np.array_equal(states.steps, [0, 1, 2, 2, 3])
    assert np.all(np.isnan(averages[0]))  # so that no step is made
    assert np.array_equal(averages[3], averages[2])
    good = [1, 2, 4]
    for count in (1, 2, 3):
        shares = np.asarray(decay) ** np.arange(count)[::-1]
        expected = shares @ alone[good[:count]] / shares.sum()
        assert distance(averages[good[count - 1]], expected) <= 1e-12


def test_a_solve_has_the_derivative_of_the_dense_one_in_the_weights(x64):
    case = layer()
    (term,) = case.terms
    params, static = eqx.partition(case.model, eqx.is_inexact_array)
    w, unravel = jfu.ravel_pytree(params)
    b, c = np.random.default_rng(4).normal(size=(2, w.size))

    def library(w):
        here = case.objective.linearise(eqx.combine(unravel(w), static), case.batch)
        C = cv.damped(cv.Diagonal(cv.GaussNewton()).operator(here), 0.1)
        return c @ jfu.ravel_pytree(lx.linear_solve(C, unravel(b), cv.Auto()).value)[0]

    def densely(w):
        model = eqx.combine(unravel(w), static)
        J = term.jacobians(model, case.trainable)
        M = jax.vmap(dense.gauss_newton(term.distribution))(term.values(model), term.targets)
        diagonal = jnp.einsum("icp,icd,idp->p", J, M, J) / len(J)
        return jnp.sum(c * b / (diagonal + 0.1))

    found, expected = jax.jit(lambda w: (jax.grad(library)(w), jax.grad(densely)(w)))(w)
    assert distance(found, expected) <= 1e-10


class Mixed(eqx.Module):
    """A model with weights in half and in single precision and outputs in double precision."""

    half: jax.Array
    single: jax.Array

    def __call__(self, x):
        return jnp.tanh(self.half.astype(x.dtype) @ x + self.single.astype(x.dtype))


def test_it_has_at_least_single_precision(x64):
    """The precision is at least single, since the numbers of a curvature are small."""
    mixed = Mixed(jnp.ones((3, 3), "float16"), jnp.ones(3, "float32"))
    case = cases.supervised(mixed, "gaussian")
    structure = cv.Diagonal(cv.ExactFisher())

    @eqx.filter_jit
    def run(model, batch):
        here = case.objective.linearise(model, batch)
        operator, _ = structure.update(here, structure.init(here))
        return operator, here.params

    operator, params = run(mixed, case.batch)
    of_double, _ = run(cast(mixed, jnp.float64), case.batch)  # ones are exact in any precision
    assert jax.eval_shape(lambda: params) == operator.in_structure()
    assert operator.values.half.dtype == operator.values.single.dtype == jnp.float32
    assert distance(laws.ravelled(operator.values), laws.ravelled(of_double.values)) <= 1e-6


def test_a_weight_without_curvature_gradient_and_damping_does_not_move(x64):
    """The solver defines 0/0 as 0, which is the limit for λ → 0."""
    shape = jax.ShapeDtypeStruct((3,), float)
    operator = eqx.tree_at(
        lambda C: C.operator,
        cv.damped(lx.IdentityLinearOperator(shape), 0.0),
        cv.operators.DiagonalOperator(jnp.asarray([2.0, 0.0, 0.5])),
    )
    solution = lx.linear_solve(operator, jnp.asarray([1.0, 0.0, 1.0]), cv.Auto())
    assert np.array_equal(solution.value, [0.5, 0.0, 2.0])


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    "of",
    [
        cv.Identity(),
        cv.Diagonal(cv.GaussNewton()),
        cv.MovingAverage(cv.GaussNewton()),
        cv.FirstExamples(cv.GaussNewton(), 3),
    ],
    ids=lambda of: type(of).__name__,
)
def test_a_structure_of_a_curvature_that_is_no_pullback_is_refused(of):
    found = type(of).__name__
    said = rf"`Diagonal\(of=...\)` must be a pullback .* got `{found}`\. Use `{found}` without"
    with pytest.raises(ValueError, match=said):
        cv.Diagonal(of)


def test_it_asks_for_a_batch_and_a_key():
    case = layer()
    optimiser = cv.NaturalGradient(case.objective, cv.Diagonal(cv.SampledFisher()))
    with pytest.raises(
        ValueError, match=r"The state of `Diagonal\(of\)` has .* `opt.init\(model, batch"
    ):
        optimiser.init(case.model)

    def make(model, batch):
        return optimiser.curvature.operator(case.objective.linearise(model, batch))

    with pytest.raises(ValueError, match=r"`SampledFisher` draws targets and needs a key"):
        eqx.filter_eval_shape(make, case.model, case.batch)
