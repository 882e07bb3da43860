"""Solves in the space of the samples, against dense matrices and the other solvers."""

import functools
import itertools

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
import numpy as np
import optimistix as optx
import pytest

import curvature as cv
from curvature.rows import LowerBlocks, columns_of, factorise, split_gradient
from curvature.solvers import RightHandSide
from tests.curvature import cases
from tests.curvature.tools import (
    Notes,
    flat,
    float64,
    jacobians,
    linearised,
    network,
    symmetric,
)
from tests.curvature.written import MODELS, SOLVERS, trajectory
from tests.selection import name_of, slow_but

# --- steps -----------------------------------------------------------------------------------

TRAJECTORIES = [
    ("one layer", "exact_fisher"),
    ("tanh", "exact_fisher"),
    ("tanh", "empirical_fisher"),
    ("convnet", "divergence"),
    ("several_terms", "true_fisher"),
]


@pytest.mark.parametrize(("model", "name"), slow_but(TRAJECTORIES[:1], TRAJECTORIES))
def test_five_steps_are_those_of_the_other_solvers(x64, model, name):
    case, keys = MODELS[model]("categorical"), jax.random.split(jax.random.key(5), 5)
    found = {}
    for kind, solver in SOLVERS.items():
        optimiser = cv.NaturalGradient(
            case.objective,
            curvature=cases.curvature(name, "categorical"),
            solver=solver,
            damping=0.03,
            search=optx.LearningRate(0.5),
        )
        found[kind], infos = trajectory(case, optimiser, keys)
        assert np.all(infos.accepted)
    expected = found["Cholesky"]
    assert np.linalg.norm(expected[-1] - expected[0]) > 1e-3
    for weights in found.values():
        atol = 1e-8 * np.abs(expected).max()
        np.testing.assert_allclose(weights, expected, rtol=1e-8, atol=atol)


class Counted(eqx.Module):
    """A layer that counts its calls in Python, which happen only in a trace."""

    layer: eqx.nn.Linear
    calls: Notes = eqx.field(static=True)

    def __call__(self, x):
        self.calls.append(1)
        return jnp.tanh(self.layer(x))


def test_a_step_calls_the_model_once_and_is_finite_without_damping():
    model = Counted(eqx.nn.Linear(3, 3, key=jax.random.key(0)), Notes())
    case = cases.supervised(model, "categorical")
    optimiser = cv.NaturalGradient(
        case.objective,
        curvature=cv.ExactFisher(),
        solver=cv.SampleSpace(),
        damping=0.0,
        search=optx.LearningRate(0.1),
    )
    new, _, info = optimiser.step(model, case.batch, optimiser.init(model))
    assert len(model.calls) == 1
    assert info.solver == "SampleSpace"
    assert np.isfinite(flat(new)).all()


# --- one solve -------------------------------------------------------------------------------


@eqx.filter_jit
def solve(model, batch, damping, curvature, offset, vector):
    """The solutions for the gradient g, for g + `offset` and for `vector`, then S and Jᵀγ.

    S is the factor of each example. Jᵀγ is the remainder of g, which is no combination of the rows.
    """
    linearisation = linearised(model, batch)
    C = curvature.operator(linearisation, key=jax.random.key(1))
    whole, unravel = cv.damped(C, damping), jfu.ravel_pytree(linearisation.grad)[1]

    def for_the_gradient(offset):
        b = RightHandSide(linearisation, linearisation.cotangents, offset)
        return cv.SampleSpace().solve(whole, b, None)

    of_any = lx.linear_solve(whole, unravel(vector), cv.SampleSpace(), throw=False)
    split = split_gradient(linearisation, columns_of(linearisation, C.factors), C.coefficients)
    S = eqx.filter_vmap(lambda S: S.as_matrix())(C.factors[0])
    left = jnp.zeros_like(vector)
    if split.remainder is not None:
        left = flat(linearisation.vjp(split.remainder))
    return for_the_gradient(None), for_the_gradient(unravel(offset)), of_any, S, left


def solved(model, batch, damping, curvature, offset=None, vector=None):
    zeros = jnp.zeros_like(flat(model))
    given = (zeros if v is None else jnp.asarray(v, zeros.dtype) for v in (offset, vector))
    return solve(model, batch, jnp.asarray(damping, zeros.dtype), curvature, *given)


@functools.partial(jax.jit, static_argnums=0)
def _definition(static, arrays, x, y, S):
    model = eqx.combine(arrays, static)
    J, z = jacobians(model, x), jax.vmap(model)(x)
    p = jax.nn.softmax(z)
    g = p - jax.nn.one_hot(y, z.shape[1])
    exact = jax.vmap(jnp.diag)(p) - p[:, :, None] * p[:, None, :]
    empirical = g[:, :, None] * g[:, None, :]
    Ms = exact, empirical, jnp.einsum("icr,idr->icd", S, S)
    pulled = [jnp.einsum("icp,icd,idq->pq", J, M, J) / len(x) for M in Ms]
    return pulled, jnp.einsum("icp,ic->p", J, g) / len(x)


def definition(model, batch, curvature, S):
    """C and g in float64 by Jacobians, for weights in any precision; S is that of the samples."""
    with jax.enable_x64(True):
        wide, (x, y), S = float64((model, batch, S))
        arrays, static = eqx.partition(wide, eqx.is_array)
        Cs, g = _definition(static, arrays, x, y, S)
    kinds = [cv.ExactFisher, cv.EmpiricalFisher, cv.SampledFisher]
    return np.asarray(Cs[kinds.index(type(curvature))]), np.asarray(g)


CURVATURES = [cv.EmpiricalFisher(), cv.SampledFisher(2), cv.ExactFisher()]
# The quick tests all use EXACT in float32, so that they share one program.
EXACT, EMPIRICAL = CURVATURES[2], CURVATURES[0]
DAMPINGS = {"float64": [1e-1, 1e-4, 1e-8, 1e-12], "float32": [1e-1, 1e-3, 1e-6]}


def in_units_of_rounding(C, damping, d, b, dtype, size=None):
    """‖b − (C + λI)d‖ / (eps (‖C‖ + λ)‖d‖), which is a small number for a backward-stable solve.

    `size` is ‖C‖, or None to compute it.
    """
    d = np.asarray(d, np.float64)
    size = float(damping) + (np.linalg.norm(C, 2) if size is None else size)
    residual = np.linalg.norm(b - C @ d - float(damping) * d)
    return residual / (np.finfo(dtype).eps * size * np.linalg.norm(d))


def check_numbers(found, C, size, damping, b, dtype, known=0.0, message=""):
    """Checks the residual and the reported numbers of a solution for b.

    `size` is ‖C‖. `known` is the absolute error of the vector b itself.
    """
    d, eps = np.asarray(flat(found.direction), np.float64), np.finfo(dtype).eps
    residual = np.linalg.norm(b - C @ d - float(damping) * d)
    unit = eps * (size + float(damping)) * np.linalg.norm(d)
    message = f"{message}, λ = {damping}: {residual / unit:.1f}, {found.steps}"
    assert residual <= 10 * unit + known, message
    assert found.residual * np.linalg.norm(b) >= residual / 10, message
    rtol = 100 * eps / (float(damping) / size) ** 0.5
    close = functools.partial(np.testing.assert_allclose, rtol=rtol, err_msg=message)
    close(found.metric, d @ C @ d, atol=10 * eps * size * d @ d)
    close(found.slope, d @ b, atol=10 * eps * size * d @ d)
    close(found.squared_norm, d @ d)
    close(found.vector_norm, np.linalg.norm(b), atol=known)


RESIDUALS = [
    *itertools.product(["float32", "float64"], CURVATURES, [1.0]),
    ("float32", EXACT, 4.0),
    ("float64", EMPIRICAL, 4.0),
]
QUICK = [("float32", EXACT, 1.0)]


@pytest.mark.parametrize(("dtype", "curvature", "scale"), slow_but(QUICK, RESIDUALS), ids=name_of)
def test_the_residual_is_that_of_a_backward_stable_solve(dtype, curvature, scale):
    """This holds for the gradient down to the smallest λ, and for an arbitrary vector."""
    with jax.enable_x64(dtype == "float64"):
        model, batch = network(dtype, scale=scale)
        other = np.random.default_rng(2).normal(size=flat(model).size).astype(dtype)
        for damping in np.asarray(DAMPINGS[dtype], dtype):
            of_g, _, of_any, S, _ = solved(model, batch, damping, curvature, None, other)
            C, g = definition(model, batch, curvature, S)
            size = np.linalg.norm(C, 2)
            check_numbers(of_g, C, size, damping, g, dtype)
            assert of_g.result == lx.RESULTS.successful
            assert in_units_of_rounding(C, damping, flat(of_any.value), other, dtype, size) <= 10


OFFSETS = [*itertools.product(["float32", "float64"], CURVATURES)]
RELATIVE = [1.0, 1e-2, 1e-4, 1e-6]


@pytest.mark.parametrize(
    ("dtype", "curvature"),
    slow_but([("float32", EXACT)], OFFSETS),
    ids=name_of,
)
def test_with_an_offset_the_residual_is_that_of_a_backward_stable_solve(dtype, curvature):
    """The offsets have many sizes: λμφ, that of a penalty, noise, and minus the remainder of g."""
    with jax.enable_x64(dtype == "float64"):
        model, batch = network(dtype)
        *_, S, left = solved(model, batch, 1.0, curvature)
        C, g = definition(model, batch, curvature, S)
        left, w = np.asarray(left, np.float64), np.asarray(flat(model), np.float64)
        size, eps = np.linalg.norm(C, 2), float(np.finfo(dtype).eps)
        last = np.linalg.solve(C + 1e-3 * size * np.eye(len(C)), g)
        noise = np.random.default_rng(0).normal(size=len(g))
        for relative in RELATIVE:
            damping = np.dtype(dtype).type(relative * size)
            offsets = {
                "momentum": 0.9 * damping * last,
                "penalty": 1e-4 * w,
                "noise": noise,
                "small noise": 1e-6 * noise,
                "the remainder": 1e-3 * C @ noise - left,
            }
            for name, offset in offsets.items():
                v = np.asarray(offset, dtype)
                found = solved(model, batch, damping, curvature, v)[1]
                # The vector itself has a rounding error.
                known = eps * (np.linalg.norm(g) + np.linalg.norm(v) + np.linalg.norm(left))
                b = g + v.astype(np.float64)
                check_numbers(found, C, size, damping, b, dtype, known, name)


@pytest.mark.parametrize("curvature", slow_but([EXACT], CURVATURES), ids=name_of)
def test_confidently_wrong_outputs_are_solved(curvature):
    """The logits are in the hundreds and the labels have probability 0.

    1/√p overflows there, and the step must still be finite.
    """
    model, (x, _) = network("float32", scale=40.0)
    logits = jax.vmap(model)(x)
    assert jnp.max(jnp.abs(logits)) > 200
    batch = x, jnp.argmin(logits, axis=1)
    for damping in np.float32([1.0, 1e-3]):
        found, *_, S, _ = solved(model, batch, damping, curvature)
        assert all(np.isfinite(value).all() for value in jtu.tree_leaves(found))
        C, g = definition(model, batch, curvature, S)
        assert in_units_of_rounding(C, damping, flat(found.direction), g, "float32") <= 10


def test_a_repeated_batch_is_solved():
    """Equal rows make AAᵀ singular, and λ is below the rounding error of that matrix."""
    damping = np.float32(1e-9)
    model, batch = network("float32", n=4, repeat=3)
    found, *_, S, _ = solved(model, batch, damping, EXACT)
    assert found.result == lx.RESULTS.successful
    C, g = definition(model, batch, EXACT, S)
    assert in_units_of_rounding(C, damping, flat(found.direction), g, "float32") <= 10


@pytest.mark.parametrize(
    ("spread", "damping"),
    slow_but([(1e-4, 1e-2)], itertools.product([1e-4, 1e-2], [1e-4, 1e-2, 1e2])),
)
def test_a_gradient_far_shorter_than_its_terms_has_its_norm(spread, damping):
    """The rows are nearly parallel, and their coefficients add up to zero."""
    rng = np.random.default_rng(0)
    x = (1 + spread * rng.normal(size=(4, 20))).astype(np.float32)
    model = eqx.nn.Linear(20, 1, use_bias=False, key=jax.random.key(0))
    y = x @ np.asarray(model.weight).T - np.float32([[1], [-1], [1], [-1]])
    opt = cv.NaturalGradient(
        cv.Supervised(cv.Gaussian()),
        solver=cv.SampleSpace(),
        damping=damping,
        search=optx.LearningRate(1.0),
    )
    _, _, info = opt.step(model, (jnp.asarray(x), jnp.asarray(y)), opt.init(model))
    wide, W = x.astype(float), np.asarray(model.weight, float)
    expected = np.linalg.norm((wide @ W.T - y).T @ wide) / 4
    t = np.linalg.norm(wide) / 4 / expected
    assert t > 50
    C = np.linalg.norm(wide @ wide.T) / 4
    bound = np.finfo(np.float32).eps * (t + min(t**2, (C + damping) / damping))
    assert abs(info.grad_norm / expected - 1) <= 5 * bound
    assert info.accepted


@pytest.mark.parametrize("seed", range(3))
def test_a_gradient_that_is_not_zero_is_not_called_zero(seed):
    """λ and the gradient are below the rounding errors of C and of the gradient's terms."""
    x = 1 + 1e-5 * np.random.default_rng(seed).normal(size=(4, 20)).astype(np.float32)
    model = eqx.nn.Linear(20, 1, use_bias=False, key=jax.random.key(seed))
    y = x @ np.asarray(model.weight).T - np.float32([[1], [-1], [1], [-1]])
    batch = jnp.asarray(x), jnp.asarray(y)
    for curvature in (cv.GaussNewton(), cv.BlockDiagonal(cv.GaussNewton())):
        opt = cv.NaturalGradient(cv.Supervised(cv.Gaussian()), curvature, damping=1e-6)
        _, _, info = opt.step(model, batch, opt.init(model, batch=batch))
        assert 0 < info.grad_norm < 3 * np.finfo(np.float32).eps ** 0.5 * np.linalg.norm(x) / 4
        assert info.result != cv.RESULTS.stationary


@pytest.mark.parametrize("seed", range(4))
def test_no_damping_and_a_vector_in_range_is_a_success(seed):
    model, batch = network("float32")
    v = np.random.default_rng(seed).normal(size=flat(model).size)
    C = EXACT.operator(linearised(model, batch))
    unravel = jfu.ravel_pytree(eqx.filter(model, eqx.is_array))[1]
    b = flat(eqx.filter_jit(C.mv)(unravel(jnp.asarray(v, jnp.float32))))
    found = solved(model, batch, 0.0, EXACT, None, b)[2]
    assert found.result == lx.RESULTS.successful


def test_no_damping_and_a_vector_out_of_range_is_singular_not_nan():
    model, batch = network("float32")
    found = solved(model, batch, 0.0, EXACT, None, np.ones(flat(model).size))[2]
    assert np.isfinite(flat(found.value)).all()
    assert found.result == lx.RESULTS.singular
    assert found.stats["residual"] > 0.1


def test_products_that_contradict_the_rows_are_called_stagnation():
    """A compiler bug once made products and rows contradict each other."""
    model, (x, y) = network("float32")

    @jax.jit
    def solution(x):
        one, other = (EXACT.operator(linearised(model, (inputs, y))) for inputs in (x, -x))
        residuals = lambda C: C.linearisation.residuals  # noqa: E731
        whole = cv.damped(eqx.tree_at(residuals, one, residuals(other)), jnp.float32(1e-5))
        found = lx.linear_solve(whole, one.linearisation.grad, cv.SampleSpace(), throw=False)
        return found.result, found.stats["residual"]

    result, residual = solution(x)
    assert result == lx.RESULTS.stagnation
    assert residual > 1e-2


def test_sample_space_takes_curvatures_only():
    matrix = lx.MatrixLinearOperator(jnp.eye(3), lx.positive_semidefinite_tag)
    with pytest.raises(ValueError, match=r"AbstractPullback.*MatrixLinearOperator.*Auto"):
        lx.linear_solve(cv.damped(matrix, 1.0), jnp.ones(3), cv.SampleSpace())


@pytest.mark.parametrize("repeat", slow_but([2], [1, 2]))
def test_no_damping_gives_the_least_norm_solution_and_dampings_can_be_mapped_over(x64, repeat):
    """For λ = 0 the solution is C⁺g, also if C and AAᵀ are singular: g lies in the range of C."""
    model = eqx.nn.Linear(20, 6, key=jax.random.key(0))
    batch = network("float64", n=6 // repeat, repeat=repeat)[1]
    dampings = np.asarray([1e-3, 1e-1])

    @eqx.filter_jit
    def directions(model, batch, dampings):
        here = linearised(model, batch)
        C = EMPIRICAL.operator(here)
        b = RightHandSide(here, here.cotangents, None)
        least = cv.SampleSpace().solve(cv.damped(C, jnp.asarray(0.0)), b, None)
        mapped = jax.vmap(
            lambda damping: flat(
                lx.linear_solve(cv.damped(C, damping), here.grad, cv.SampleSpace()).value
            )
        )
        return least, mapped(dampings)

    least, mapped = directions(model, batch, jnp.asarray(dampings))
    x, y = map(np.asarray, batch)
    p = np.exp(x @ np.asarray(model.weight).T + np.asarray(model.bias))
    residuals = p / p.sum(axis=1, keepdims=True) - np.eye(6)[y]
    G = np.einsum("no,ni->noi", residuals, np.insert(x, 20, 1, axis=1))
    G = np.concatenate([G[..., :20].reshape(6, 120), G[..., 20]], axis=1)
    C, g = G.T @ G / 6, G.mean(axis=0)
    expected = np.linalg.pinv(C, rcond=1e-12, hermitian=True) @ g
    np.testing.assert_allclose(
        flat(least.direction), expected, atol=1e-6 * np.linalg.norm(expected)
    )
    assert least.result == lx.RESULTS.successful
    assert least.residual < 1e-6
    for damping, d in zip(dampings, mapped, strict=True):
        np.testing.assert_allclose(d, np.linalg.solve(C + damping * np.eye(len(C)), g), rtol=1e-8)


# --- the parts of the solver -----------------------------------------------------------------


def blocks(matrix, widths):
    """A symmetric matrix as block columns that start on the diagonal."""
    columns, offset = [], 0
    for width in widths:
        columns.append(jnp.asarray(matrix[offset:, offset : offset + width]))
        offset += width
    return LowerBlocks(tuple(columns))


@jax.jit
def factorised(held, damping, b):
    factor = factorise(held, damping, held.norm())
    return factor.damping, factor.solve(b), held.symmetric_mv(b[:, None])[:, 0], held.norm()


@pytest.mark.parametrize("widths", [(9,), (4, 4, 1)])
def test_a_blocked_factor_solves(x64, widths):
    """A singular matrix without damping gets a shift of the size of its rounding error."""
    for rank, given in ((20, 1e-3), (3, 1e-3), (3, 0.0)):
        rng = np.random.default_rng(0)
        A = rng.normal(size=(9, rank))
        gram = A @ A.T
        b = rng.normal(size=9) if given else gram @ rng.normal(size=9)
        held = blocks(gram, widths)
        np.testing.assert_allclose(symmetric(held), gram)
        damping, x, product, norm = factorised(held, jnp.asarray(given), jnp.asarray(b))
        np.testing.assert_allclose(product, gram @ b, rtol=1e-12)
        np.testing.assert_allclose(norm, np.linalg.norm(gram), rtol=1e-14)
        if given:
            assert damping == given
            np.testing.assert_allclose(x, np.linalg.solve(gram + given * np.eye(9), b), rtol=1e-9)
        else:
            assert 0 < damping < 1e-13 * np.linalg.norm(gram, 2)
            np.testing.assert_allclose(gram @ x, b, atol=1e-9 * np.linalg.norm(b))


SPLITS = [("tanh", likelihood) for likelihood in cases.LIKELIHOODS] + [
    ("dropout", "categorical"),
    ("rows", "categorical"),
    ("several_terms", "gaussian"),
]


@pytest.mark.parametrize(("model", "likelihood"), slow_but([("rows", "categorical")], SPLITS))
def test_a_split_of_the_gradient_adds_up(x64, model, likelihood):
    case = cases.MODELS[model](likelihood)
    names = ["empirical_fisher", "exact_fisher", "true_fisher", "gauss_newton"]

    @jax.jit
    def cotangents():
        operators = cases.operators(
            case, likelihood, jax.random.key(0), case.model, case.batch, names
        )
        totals = []
        for C in operators.values():
            here = C.linearisation
            columns = columns_of(here, C.factors)
            split = split_gradient(here, columns, C.coefficients)
            covered, start = [], 0
            for column in columns:
                size = column.shape[0] * column.shape[1]
                share = split.coefficients[start : start + size].reshape(column.shape[:2])
                covered.append(jnp.einsum("rn,rn...->n...", share, column))
                start += size
            if split.remainder is not None:
                covered = [a + b for a, b in zip(covered, split.remainder, strict=True)]
            totals.append(covered)
        return totals, here.cotangents

    totals, expected = cotangents()
    for total in totals:
        for found, of_term in zip(total, expected, strict=True):
            np.testing.assert_allclose(found, of_term, atol=1e-13)


def test_a_drawn_target_that_is_the_datum_covers_the_gradient(x64):
    """If the sample equals the target, the gradient is a combination of the rows.

    The remainder is then only rounding error.
    """
    model = eqx.nn.Linear(20, 6, key=jax.random.key(0))
    model = eqx.tree_at(lambda m: m.weight, model, 1e3 * model.weight)
    x, _ = network("float64")[1]
    z = np.asarray(x) @ np.asarray(model.weight).T + np.asarray(model.bias)
    batch = x, jnp.asarray(np.argmax(z, axis=1))  # these labels are almost certain

    @eqx.filter_jit
    def remainder(model, batch):
        linearisation = linearised(model, batch)
        C = cv.SampledFisher(1).operator(linearisation, key=jax.random.key(0))
        columns = columns_of(linearisation, C.factors)
        return split_gradient(linearisation, columns, C.coefficients), linearisation.cotangents[0]

    split, cotangents = remainder(model, batch)
    assert np.abs(split.remainder[0]).max() <= 1e-12 * np.abs(cotangents).max()
