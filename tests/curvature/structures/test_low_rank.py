"""`cv.LowRank`: Nyström's approximation of the dense C, its damped inverse and its solve."""

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
from curvature.curvatures.structures import low_rank
from tests.curvature import cases
from tests.curvature.cases import product
from tests.curvature.structures import laws
from tests.curvature.tools import distance
from tests.curvature.written import Written, check_step, one_layer, steps, trajectory
from tests.selection import slow_but

KEY = jax.random.key(3)
OF_KEY, _ = jax.random.split(KEY)
RANK = 22
"""The rank of C in the quick cases is smaller: 5 examples have a rank of at most 3 each."""


@functools.cache
def evaluated(model, likelihood, names):
    """The operators with a sufficient rank: the number of weights, or a bound of the rank of C."""
    with jax.enable_x64(True):
        case = cases.MODELS[model](likelihood)
        size = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(case.model, case.trainable)))
        rows = sum(len(term.targets) for term in case.terms) * 6
        rank = min(size, RANK if model == "tanh" else rows)
        structure = functools.partial(cv.LowRank, rank=rank)
        return laws.evaluated(model, likelihood, structure, KEY, OF_KEY, names)


# `LowRank` uses only products with C, and test_operators.py tests these for every model.
ROWS = [*laws.QUICK, ("tanh", "categorical", laws.PULLBACKS)]
ROWS += [(model, "categorical", laws.TWO) for model in ("frozen", "rows", "several_terms")]


@pytest.mark.parametrize(("model", "likelihood", "names"), slow_but(laws.QUICK, ROWS))
def test_with_a_sufficient_rank_it_is_the_dense_matrix(x64, model, likelihood, names):
    found = evaluated(model, likelihood, names)
    assert set(laws.TWO) <= set(found)
    for name, (operator, C) in found.items():
        rank = np.linalg.matrix_rank(C, hermitian=True)
        assert 0 < rank <= len(operator.values), name
        assert distance(laws.matrix_of(operator), C) <= 1e-10, name


def test_products_and_inverses_are_those_of_its_matrix(x64):
    operator, _ = evaluated(*laws.QUICK[0])["gauss_newton"]
    assert not lx.is_diagonal(operator)
    assert operator.in_structure() == operator.out_structure()
    laws.check_operator(operator)
    laws.check_operator(operator.inverse(jnp.asarray(0.3)))


def spectrum(values):
    """A symmetric matrix with these eigenvalues, in a random basis."""
    size = len(values)
    Q, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(size, size)))
    return (Q * values) @ Q.T


@pytest.mark.parametrize("damping", laws.DAMPINGS)
def test_a_solve_leaves_no_residual_inside_the_subspace(x64, damping):
    """The vector is in the range of C, as a gradient is, and λ may be small."""
    C = spectrum(np.r_[np.geomspace(1, 1e3, 6), np.zeros(14)])
    test, _ = np.linalg.qr(np.random.default_rng(6).normal(size=(20, 6)))
    shape = jax.ShapeDtypeStruct((20,), float)
    U, s = low_rank._nystrom(jnp.asarray(test), jnp.asarray(C @ test))
    operator = cv.operators.LowRankOperator(U, s, shape)
    assert distance(operator.as_matrix(), C) <= 1e-12
    b = operator.as_matrix() @ np.random.default_rng(7).normal(size=20)
    found = lx.linear_solve(cv.damped(operator, damping), b, cv.Structured())
    assert distance(operator.as_matrix() @ found.value + damping * found.value, b) <= 1e-12


def test_it_keeps_the_large_eigenvalues_and_never_exceeds_the_matrix(x64):
    """The mean error is within the bound of Frangella, Tropp and Udell 2023, proposition 2.2.

    The bound is that for p = 3.
    """
    values = 2.0 ** -np.arange(30)
    C, rank, errors = spectrum(values), 8, []
    for seed in range(20):
        test, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(30, rank)))
        U, s = map(np.asarray, low_rank._nystrom(jnp.asarray(test), jnp.asarray(C @ test)))
        gap = C - (U * s) @ U.T
        assert np.linalg.eigvalsh(gap)[0] >= -1e-12
        errors.append(np.linalg.norm(gap, 2))
    p, tail = 3, values[rank - 3 :]
    factor = 2 * np.e**2 * rank / (p**2 - 1)
    bound = (1 + 2 * (rank - p) / (p - 1)) * tail[0] + factor * tail.sum()
    assert np.mean(errors) <= bound


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ranks_beyond_that_of_the_matrix_and_a_matrix_of_zeros(x64, dtype):
    """ΩᵀCΩ is then singular, so its factorisation needs the shift ν."""
    for values in (np.r_[np.ones(3), np.zeros(27)], np.zeros(30)):
        C = jnp.asarray(spectrum(values), dtype)
        for seed in range(20):
            test = np.random.default_rng(seed).normal(size=(30, 25))
            test = jnp.asarray(np.linalg.qr(test)[0], dtype)
            U, s = low_rank._nystrom(test, C @ test)
            gap = np.linalg.norm((U * s[None, :]) @ U.T - C)
            assert gap <= 100 * np.finfo(dtype).eps * np.linalg.norm(C)


def layer():
    return cases.supervised(one_layer(), "categorical")


def test_a_step_is_that_of_the_dense_matrix(x64):
    case, s = layer(), 0.5
    optimiser = cv.NaturalGradient(
        case.objective,
        curvature=cv.LowRank(cv.GaussNewton(), 9),
        damping=cv.LevenbergMarquardt(0.03),
        search=optx.LearningRate(s),
    )
    ws, infos = trajectory(case, optimiser, jax.random.split(KEY, 2))
    written = Written(case, "gauss_newton")
    for k, w, new, info in steps(ws, infos):
        _, g, C = written(w)
        expected = w - s * np.linalg.solve(C + float(info.damping) * np.eye(len(w)), g)
        check_step(info, w, new, written, C, f"step {k}", expected)
        assert info.solver_residual < 1e-12


@pytest.mark.parametrize(
    ("rank", "key", "said"),
    [
        (10, KEY, r"`LowRank\(rank=...\)` must be at most .* weights, 9, got 10\."),
        (2, None, r"`LowRank` draws a random subspace and needs a key"),
    ],
)
def test_a_rank_above_the_number_of_weights_and_a_missing_key_are_refused(rank, key, said):
    case = layer()

    def make(model, batch):
        here = case.objective.linearise(model, batch)
        return cv.LowRank(cv.GaussNewton(), rank).operator(here, key=key)

    with pytest.raises(ValueError, match=said):
        eqx.filter_eval_shape(make, case.model, case.batch)


def test_a_derivative_in_the_weights_is_refused_one_in_the_vector_is_right(x64):
    case, b = layer(), np.random.default_rng(2).normal(size=9)
    params, static = eqx.partition(case.model, eqx.is_inexact_array)

    def solved(params, b, damping):
        here = case.objective.linearise(eqx.combine(params, static), case.batch)
        C = cv.LowRank(cv.GaussNewton(), 9).operator(here, key=KEY)
        inverse = C.inverse(damping)
        return product(inverse, b)

    at = params, jnp.asarray(b), jnp.asarray(0.1)
    with pytest.raises(ValueError, match=r"`LowRank` has no derivative in the weights"):
        jax.eval_shape(jax.jacrev(solved), *at)
    of_b, of_damping = jax.jit(jax.jacrev(solved, argnums=(1, 2)))(*at)
    written = Written(case, "gauss_newton")
    _, _, C = written(written.w)
    inverse = np.linalg.inv(C + 0.1 * np.eye(9))
    assert distance(of_b, inverse) <= 1e-12
    assert distance(of_damping, -inverse @ inverse @ b) <= 1e-12


@pytest.mark.slow
@pytest.mark.usefixtures("as_installed")
def test_as_a_preconditioner_it_leaves_a_step_its_derivative(x64):
    """The derivative is that of the exact solve, in which the preconditioner is a constant."""
    case = layer()
    params, static = eqx.partition(case.model, eqx.is_inexact_array)
    w, unravel = jfu.ravel_pytree(params)

    def step(w, preconditioner):
        optimiser = cv.NaturalGradient(
            case.objective,
            solver=cv.CG(rtol=1e-12, max_steps=50),
            preconditioner=preconditioner,
            damping=0.1,
        )
        model = eqx.combine(unravel(w), static)
        state = optimiser.init(case.model, batch=case.batch)
        model, _, _ = optimiser.step(model, case.batch, state, key=KEY)
        return jnp.sum(jfu.ravel_pytree(eqx.filter(model, eqx.is_inexact_array))[0] ** 2)

    of = cv.LowRank(cv.SampledFisher(), 4)
    with_it, without = jax.jit(lambda w: [jax.grad(step)(w, P) for P in (of, None)])(w)
    assert distance(with_it, without) <= 1e-9
