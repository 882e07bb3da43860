"""Solves in sample space, against dense matrices and against the other solvers."""

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
from curvature.rows import LowerBlocks, columns_of, split_gradient
from curvature.solvers import RightHandSide
from curvature.solvers.sample_space.factor import factorise
from tests.curvature import cases, dense
from tests.curvature.tools import flat, float64, jacobians, linearised, network, symmetric
from tests.selection import name_of, slow_but

SOLVERS = {
    "sample space": cv.SampleSpace(),
    "Cholesky": lx.Cholesky(),
    "CG": cv.CG(rtol=1e-13, max_steps=500),
}


# --- five steps ------------------------------------------------------------------------------


def five_steps(case, curvature, solver):
    """The weights after each of five steps."""
    optimiser = cv.NaturalGradient(
        case.objective,
        curvature=curvature,
        solver=solver,
        damping=0.03,
        search=optx.LearningRate(0.5),
    )
    params, frozen = eqx.partition(case.model, eqx.is_inexact_array)
    state = optimiser.init(case.model, case.trainable)

    def body(carry, key):
        params, state = carry
        model = eqx.combine(params, frozen)
        model, state, info = optimiser.step(model, case.batch, state, key=key)
        params = eqx.filter(model, eqx.is_inexact_array)
        return (params, state), (flat(params), info.accepted)

    return jax.lax.scan(body, (params, state), jax.random.split(jax.random.key(5), 5))[1]


TRAJECTORIES = [
    ("tanh", "exact_fisher"),
    ("tanh", "empirical_fisher"),
    ("convnet", "divergence"),
    ("several_terms", "true_fisher"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "name"), TRAJECTORIES)
def test_five_steps_are_those_of_the_other_solvers(x64, model, name):
    likelihood = cases.ONE.get(model, "categorical")
    case, curvature = cases.MODELS[model](likelihood), cases.curvature(name, likelihood)

    @jax.jit
    def run():
        return {name: five_steps(case, curvature, solver) for name, solver in SOLVERS.items()}

    found = run()
    expected, accepted = found["Cholesky"]
    assert np.all(accepted)
    assert np.linalg.norm(expected[-1] - expected[0]) > 1e-3
    scale = np.abs(expected).max()
    for weights, _ in found.values():
        np.testing.assert_allclose(weights, expected, rtol=1e-8, atol=1e-8 * scale)


class Counted(eqx.Module):
    """A network that counts how often it is called, which happens as it is traced."""

    layers: eqx.nn.MLP
    calls: list = eqx.field(static=True)

    def __call__(self, x):
        self.calls.append(1)
        return self.layers(x)


def test_a_step_calls_the_model_once_and_is_finite_without_damping():
    layers, batch = network("float32")
    model = Counted(layers, [])
    optimiser = cv.NaturalGradient(
        cv.Supervised(cv.Categorical()),
        curvature=cv.ExactFisher(),
        damping=0.0,
        search=optx.LearningRate(0.1),
    )
    new, _, info = optimiser.step(model, batch, optimiser.init(model))
    assert len(model.calls) == 1
    assert info.solver == "SampleSpace"
    assert np.isfinite(flat(new)).all()


# --- one solve -------------------------------------------------------------------------------


@eqx.filter_jit
def solve(model, batch, damping, curvature, offset, vector):
    """The solutions for the gradient g, for g + `offset` and for `vector`; with S, g and γ.

    S is the factor of the examples, g the gradient, and γ the part of it that is no combination of
    the rows, pulled back.
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


def of_gradient(*args):
    """The solution for the gradient, and d."""
    found = solved(*args)[0]
    return found, np.asarray(flat(found.direction))


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
    """C and g in float64, by Jacobians, for weights in any precision; S of drawn targets."""
    with jax.enable_x64(True):
        wide, (x, y), S = float64((model, batch, S))
        arrays, static = eqx.partition(wide, eqx.is_array)
        Cs, g = _definition(static, arrays, x, y, S)
    kinds = [cv.ExactFisher, cv.EmpiricalFisher, cv.SampledFisher]
    return np.asarray(Cs[kinds.index(type(curvature))]), np.asarray(g)


CURVATURES = [cv.EmpiricalFisher(), cv.SampledFisher(2), cv.ExactFisher()]
# The quick tests share one program: that of EXACT, in float32.
EXACT, EMPIRICAL = CURVATURES[2], CURVATURES[0]
DAMPINGS = {"float64": [1e-1, 1e-4, 1e-8, 1e-12], "float32": [1e-1, 1e-3, 1e-6]}


def in_units_of_rounding(C, damping, d, b, dtype):
    """‖b − (C + λI)d‖ over eps (‖C‖ + λ)‖d‖, of which a backward-stable solve makes a few."""
    d = np.asarray(d, np.float64)
    size = np.linalg.norm(C, 2) + float(damping)
    residual = np.linalg.norm(b - C @ d - float(damping) * d)
    return residual / (np.finfo(dtype).eps * size * np.linalg.norm(d))


RESIDUALS = [
    *itertools.product(["float32", "float64"], CURVATURES, [1.0]),
    ("float32", EXACT, 4.0),
    ("float64", EMPIRICAL, 4.0),
]
QUICK = [("float32", EXACT, 1.0)]


@pytest.mark.parametrize(("dtype", "curvature", "scale"), slow_but(QUICK, RESIDUALS), ids=name_of)
def test_the_residual_is_that_of_a_backward_stable_solve(dtype, curvature, scale):
    """For the gradient down to the smallest λ, and for a vector of which nothing is known."""
    with jax.enable_x64(dtype == "float64"):
        model, batch = network(dtype, scale=scale)
        other = np.random.default_rng(2).normal(size=flat(model).size).astype(dtype)
        for damping in np.asarray(DAMPINGS[dtype], dtype):
            of_g, _, of_any, S, _ = solved(model, batch, damping, curvature, None, other)
            C, g = definition(model, batch, curvature, S)
            assert in_units_of_rounding(C, damping, flat(of_g.direction), g, dtype) <= 10
            assert in_units_of_rounding(C, damping, flat(of_any.value), other, dtype) <= 10


OFFSETS = [*itertools.product(["float32", "float64"], CURVATURES)]
RELATIVE = [1.0, 1e-2, 1e-4, 1e-6]


@pytest.mark.parametrize(
    ("dtype", "curvature"),
    slow_but([("float32", EXACT)], OFFSETS),
    ids=name_of,
)
def test_with_an_offset_the_residual_is_that_of_a_backward_stable_solve(dtype, curvature):
    """For vectors of all sizes: λμφ and a penalty's; one that all but undoes the remainder."""
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
                b, d = g + v.astype(np.float64), np.asarray(flat(found.direction), np.float64)
                residual = np.linalg.norm(b - C @ d - float(damping) * d)
                unit = eps * (size + float(damping)) * np.linalg.norm(d)
                message = f"{name}, λ = {relative} ‖C‖: {residual / unit:.1f}, {found.steps}"
                # The vector itself is known to its rounding only.
                known = eps * (np.linalg.norm(g) + np.linalg.norm(v) + np.linalg.norm(left))
                assert residual <= 10 * unit + known, message
                assert found.residual * np.linalg.norm(b) >= residual / 10, message
                # Numbers of the vector are as good as it is.
                close = functools.partial(
                    np.testing.assert_allclose, rtol=100 * eps / relative**0.5, err_msg=message
                )
                close(found.metric, d @ C @ d, atol=10 * eps * size * d @ d)
                close(found.slope, d @ b, atol=10 * eps * size * d @ d)
                close(found.squared_norm, d @ d)
                close(found.vector_norm, np.linalg.norm(b), atol=known)


@pytest.mark.slow
@pytest.mark.parametrize("curvature", CURVATURES, ids=name_of)
def test_its_numbers_are_those_of_the_solution(x64, curvature):
    model, batch = network("float64")
    found, *_, S, _ = solved(model, batch, 1e-3, curvature)
    C, g = definition(model, batch, curvature, S)
    d = np.asarray(flat(found.direction))
    np.testing.assert_allclose(d, np.linalg.solve(C + 1e-3 * np.eye(len(C)), g), rtol=1e-8)
    assert found.result == lx.RESULTS.successful
    np.testing.assert_allclose(found.slope, d @ g, rtol=1e-10)
    np.testing.assert_allclose(found.metric, d @ C @ d, rtol=1e-10)
    np.testing.assert_allclose(found.squared_norm, d @ d, rtol=1e-10)
    np.testing.assert_allclose(found.vector_norm, np.linalg.norm(g), rtol=1e-10)
    residual = np.linalg.norm(g - C @ d - 1e-3 * d) / np.linalg.norm(g)
    assert residual / 2 <= found.residual <= 1e-10


@pytest.mark.parametrize("curvature", slow_but([EXACT], CURVATURES), ids=name_of)
def test_confidently_wrong_outputs(curvature):
    """Logits in the hundreds and labels of no probability: 1/√p overflows, the step must not."""
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


@pytest.mark.slow
@pytest.mark.parametrize("repeat", [1, 2])
def test_no_damping_gives_the_least_norm_solution(x64, repeat):
    """For the gradient, which lies in the range of C: C⁺g."""
    model, batch = network("float64", n=12 // repeat, repeat=repeat)
    found, *_, S, _ = solved(model, batch, 0.0, EMPIRICAL)
    C, g = definition(model, batch, EMPIRICAL, S)
    expected = np.linalg.pinv(C, rcond=1e-12, hermitian=True) @ g
    np.testing.assert_allclose(
        flat(found.direction), expected, atol=1e-6 * np.linalg.norm(expected)
    )
    assert found.result == lx.RESULTS.successful
    assert found.residual < 1e-6


def test_no_damping_and_a_vector_out_of_range_is_singular_not_nan():
    model, batch = network("float32")
    found = solved(model, batch, 0.0, EXACT, None, np.ones(flat(model).size))[2]
    assert np.isfinite(flat(found.value)).all()
    assert found.result == lx.RESULTS.singular
    assert found.stats["residual"] > 0.1


def test_products_that_contradict_the_rows_are_called_stagnation():
    """As a compiler did that got one of the two wrong."""
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
    with pytest.raises(ValueError, match=r"AbstractPullback.*MatrixLinearOperator.*CG"):
        lx.linear_solve(cv.damped(matrix, 1.0), jnp.ones(3), cv.SampleSpace())


@pytest.mark.slow
def test_solves_can_be_mapped_over_dampings(x64):
    model, batch = network("float64")
    dampings = jnp.asarray([1e-3, 1e-1])

    @jax.vmap
    def many(damping):
        C = EMPIRICAL.operator(linearisation)
        found = lx.linear_solve(cv.damped(C, damping), linearisation.grad, cv.SampleSpace())
        return flat(found.value)

    linearisation = eqx.filter_jit(linearised)(model, batch)
    for damping, d in zip(dampings, many(dampings), strict=True):
        np.testing.assert_allclose(d, of_gradient(model, batch, damping, EMPIRICAL)[1], rtol=1e-9)


# --- its parts -------------------------------------------------------------------------------


def blocks(matrix, widths):
    """A symmetric matrix as block columns from the diagonal down."""
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
    for rank in (20, 3):
        rng = np.random.default_rng(0)
        A, b = rng.normal(size=(9, rank)), rng.normal(size=9)
        gram = A @ A.T
        held = blocks(gram, widths)
        np.testing.assert_allclose(symmetric(held), gram)
        damping, x, product, norm = factorised(held, jnp.asarray(1e-3), jnp.asarray(b))
        assert damping == 1e-3
        np.testing.assert_allclose(x, np.linalg.solve(gram + 1e-3 * np.eye(9), b), rtol=1e-9)
        np.testing.assert_allclose(product, gram @ b, rtol=1e-12)
        np.testing.assert_allclose(norm, np.linalg.norm(gram), rtol=1e-14)


@pytest.mark.parametrize("widths", [(9,), (4, 4, 1)])
def test_a_singular_gram_matrix_is_shifted_by_its_rounding_error(x64, widths):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(9, 3))
    gram = A @ A.T
    b = gram @ rng.normal(size=9)
    damping, x, *_ = factorised(blocks(gram, widths), jnp.asarray(0.0), jnp.asarray(b))
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
    """Then the step of one sample is that of the empirical Fisher, to the last digits."""
    model, (x, _) = network("float64", scale=300.0)
    batch = x, jnp.argmax(jax.vmap(model)(x), axis=1)  # all but certain

    @eqx.filter_jit
    def remainder(model, batch):
        linearisation = linearised(model, batch)
        C = cv.SampledFisher(1).operator(linearisation, key=jax.random.key(0))
        columns = columns_of(linearisation, C.factors)
        return split_gradient(linearisation, columns, C.coefficients), linearisation.cotangents[0]

    split, cotangents = remainder(model, batch)
    assert np.abs(split.remainder[0]).max() <= 1e-12 * np.abs(cotangents).max()


@pytest.mark.parametrize("name", slow_but(["categorical"], cases.LIKELIHOODS))
def test_thin_factors_and_their_coefficients(x64, name):
    """S Sᵀ is the Fisher matrix, for one row of logits and for two; S ρ = ∇nll."""
    likelihood, distribution = cases.library(name), cases.LIKELIHOODS[name]
    fisher = dense.exact_fisher(distribution)

    @jax.jit
    def compiled(z, y):
        thin = likelihood.thin_fisher_factor(z)
        rho = likelihood.fisher_coefficients(z, y).values
        found = thin.as_matrix(), thin.mv(rho)
        return found, (fisher(z, y), jax.grad(distribution.nll)(z, y).ravel())

    for shape in ((4,), (2, 3)):
        y = cases.targets(name, np.random.default_rng(0), 1, shape)[0]
        (S, of_rho), (expected, grad) = compiled(jax.random.normal(jax.random.key(0), shape), y)
        np.testing.assert_allclose(S @ S.T, expected, atol=1e-13)
        np.testing.assert_allclose(of_rho, grad, atol=1e-14)
        fewer = len(grad) // shape[-1] if name == "categorical" else 0
        assert S.shape == (len(grad), len(grad) - fewer)
