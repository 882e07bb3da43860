"""Solves in sample space, against dense matrices and against the other solvers."""

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
from curvature.solvers.sample_space.factor import factorise
from tests.curvature import cases
from tests.selection import name_of, slow_but

SOLVERS = {
    "sample space": cv.SampleSpace(),
    "Cholesky": lx.Cholesky(),
    "CG": cv.CG(rtol=1e-13, max_steps=500),
}


def flat(tree):
    return jfu.ravel_pytree(tree)[0]


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


MODELS = [(name, cases.ONE.get(name, "categorical")) for name in cases.MODELS]
TRAJECTORIES = [
    (*model, name)
    for model in MODELS
    for name in cases.CURVATURES
    if name != "identity" or model[0] == "tanh"
]
QUICK = [
    ("tanh", "categorical", "exact_fisher"),
    ("convnet", "categorical", "empirical_fisher"),
    ("several_terms", "categorical", "true_fisher"),
]


@pytest.mark.parametrize(("model", "likelihood", "name"), slow_but(QUICK, TRAJECTORIES))
def test_five_steps_are_those_of_the_other_solvers(x64, model, likelihood, name):
    case = cases.MODELS[model](likelihood)
    curvature = cases.curvature(name, likelihood)

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


# --- one solve -------------------------------------------------------------------------------


def network(dtype, scale=1.0, n=12, repeat=1):
    """A 20-12-6 network and n examples, each of them `repeat` times."""
    model = eqx.nn.MLP(20, 6, 12, 1, key=jax.random.key(0))
    model = jtu.tree_map(lambda a: (scale * a).astype(dtype) if eqx.is_array(a) else a, model)
    rng = np.random.default_rng(0)
    x, y = rng.random((n, 20)).astype(dtype), rng.integers(6, size=n)
    return model, (jnp.tile(x, (repeat, 1)), jnp.tile(y, repeat))


@eqx.filter_jit
def solve(model, batch, damping, curvature, vector=None):
    """D, the statistics, the right-hand side: the gradient, or else `vector`."""
    linearisation = cv.Supervised(cv.Categorical()).linearise(model, batch)
    C = curvature.operator(linearisation, key=jax.random.key(1))
    options = C.gradient_options() if vector is None else {}
    b = linearisation.grad if vector is None else vector
    found = lx.linear_solve(
        cv.damped(C, damping), b, cv.SampleSpace(), options=options, throw=False
    )
    return flat(found.value), found.stats, found.result, flat(b)


def in_float64(model, batch, curvature):
    """C and the gradient in float64, for weights and inputs in any precision."""
    with jax.enable_x64(True):
        model, batch = jtu.tree_map(
            lambda a: jnp.asarray(a, jnp.float64) if eqx.is_inexact_array_like(a) else a,
            (model, batch),
        )
        linearisation = cv.Supervised(cv.Categorical()).linearise(model, batch)
        C = curvature.operator(linearisation, key=jax.random.key(1)).as_matrix()
        return np.asarray(C), np.asarray(flat(linearisation.grad))


CURVATURES = [cv.EmpiricalFisher(), cv.SampledFisher(2), cv.ExactFisher()]
DAMPINGS = {"float64": [1e-1, 1e-4, 1e-8, 1e-12], "float32": [1e-1, 1e-3, 1e-6]}


def in_units_of_rounding(C, damping, d, b, dtype):
    """‖b − (C + λI)d‖ over eps (‖C‖ + λ)‖d‖, of which a backward-stable solve makes a few."""
    d = np.asarray(d, np.float64)
    size = np.linalg.norm(C, 2) + float(damping)
    residual = np.linalg.norm(b - C @ d - float(damping) * d)
    return residual / (np.finfo(dtype).eps * size * np.linalg.norm(d))


RESIDUALS = [*itertools.product(["float32", "float64"], CURVATURES, [1.0, 4.0])]


@pytest.mark.parametrize(
    ("dtype", "curvature", "scale"), slow_but([RESIDUALS[0], RESIDUALS[-1]], RESIDUALS), ids=name_of
)
def test_the_residual_is_that_of_a_backward_stable_solve(dtype, curvature, scale):
    """For the gradient down to the smallest λ, and for a vector of which nothing is known."""
    with jax.enable_x64(dtype == "float64"):
        model, batch = network(dtype, scale)
        params = eqx.filter(model, eqx.is_inexact_array)
        other = jtu.tree_map(
            lambda a: jax.random.normal(jax.random.key(2), a.shape, a.dtype), params
        )
        for damping in np.asarray(DAMPINGS[dtype], dtype):
            found = solve(model, batch, damping, curvature)
            any_vector = solve(model, batch, damping, curvature, other)
            # A draw depends on the precision: there the matrix of float32 is the one to solve.
            C, g = in_float64(model, batch, curvature)
            if isinstance(curvature, cv.SampledFisher) and dtype == "float32":
                C, g = drawn(model, batch, curvature), np.asarray(found[3], np.float64)
            assert in_units_of_rounding(C, damping, found[0], g, dtype) <= 10
            b = np.asarray(any_vector[3], np.float64)
            assert in_units_of_rounding(C, damping, any_vector[0], b, dtype) <= 10


def drawn(model, batch, curvature):
    linearisation = cv.Supervised(cv.Categorical()).linearise(model, batch)
    C = curvature.operator(linearisation, key=jax.random.key(1)).as_matrix()
    return np.asarray(C, np.float64)


@pytest.mark.parametrize("curvature", slow_but(CURVATURES[:1], CURVATURES), ids=name_of)
def test_its_numbers_are_those_of_the_solution(x64, curvature):
    model, batch = network("float64")
    C, _ = in_float64(model, batch, curvature)
    d, stats, result, g = solve(model, batch, 1e-3, curvature)
    np.testing.assert_allclose(d, np.linalg.solve(C + 1e-3 * np.eye(len(C)), g), rtol=1e-8)
    assert result == lx.RESULTS.successful
    np.testing.assert_allclose(stats["slope"], d @ g, rtol=1e-10)
    np.testing.assert_allclose(stats["metric"], d @ C @ d, rtol=1e-10)
    np.testing.assert_allclose(stats["squared_norm"], d @ d, rtol=1e-10)
    np.testing.assert_allclose(stats["vector_norm"], np.linalg.norm(g), rtol=1e-10)
    residual = np.linalg.norm(g - C @ d - 1e-3 * d) / np.linalg.norm(g)
    assert residual / 2 <= stats["residual"] <= 1e-10


@pytest.mark.parametrize("curvature", slow_but(CURVATURES[-1:], CURVATURES), ids=name_of)
def test_confidently_wrong_outputs(curvature):
    """Logits in the hundreds and labels of no probability: 1/√p overflows, the step must not."""
    model, (x, _) = network("float32", scale=40.0)
    logits = jax.vmap(model)(x)
    assert jnp.max(jnp.abs(logits)) > 200
    batch = x, jnp.argmin(logits, axis=1)
    C, g = in_float64(model, batch, curvature)
    for damping in np.float32([1.0, 1e-3]):
        d, stats, _, grad = solve(model, batch, damping, curvature)
        assert np.isfinite(d).all()
        assert all(np.isfinite(value) for value in jtu.tree_leaves(stats))
        if isinstance(curvature, cv.SampledFisher):
            C, g = drawn(model, batch, curvature), np.asarray(grad, np.float64)
        assert in_units_of_rounding(C, damping, d, g, "float32") <= 10


def test_a_repeated_batch_needs_an_eigendecomposition_and_says_so():
    """Equal rows make AAᵀ singular, and λ is below the rounding error of that matrix."""
    curvature, damping = cv.ExactFisher(), np.float32(1e-9)
    model, batch = network("float32", repeat=3)
    d, stats, result, _ = solve(model, batch, damping, curvature)
    assert stats["eigendecomposition"]
    assert result == lx.RESULTS.successful
    C, g = in_float64(model, batch, curvature)
    assert in_units_of_rounding(C, damping, d, g, "float32") <= 10
    assert not solve(model, batch, np.float32(0.1), curvature)[1]["eigendecomposition"]


@pytest.mark.parametrize("repeat", [1, 2])
def test_no_damping_gives_the_least_norm_solution(x64, repeat):
    """For the gradient, which lies in the range of C: C⁺g."""
    model, batch = network("float64", n=6, repeat=repeat)
    C, g = in_float64(model, batch, cv.EmpiricalFisher())
    d, stats, result, _ = solve(model, batch, 0.0, cv.EmpiricalFisher())
    expected = np.linalg.pinv(C, rcond=1e-12, hermitian=True) @ g
    np.testing.assert_allclose(d, expected, atol=1e-6 * np.linalg.norm(expected))
    assert result == lx.RESULTS.successful
    assert stats["residual"] < 1e-6


def test_no_damping_and_a_vector_out_of_range_is_singular_not_nan(x64):
    model, batch = network("float64", n=6)
    ones = jtu.tree_map(jnp.ones_like, eqx.filter(model, eqx.is_inexact_array))
    d, stats, result, _ = solve(model, batch, 0.0, cv.EmpiricalFisher(), ones)
    assert np.isfinite(d).all()
    assert result == lx.RESULTS.singular
    assert stats["residual"] > 0.1


def test_products_that_contradict_the_rows_are_called_stagnation():
    """As a compiler did that got one of the two wrong."""
    curvature, damping = cv.ExactFisher(), np.float32(1e-5)
    model, (x, y) = network("float32")
    linearise = cv.Supervised(cv.Categorical()).linearise
    one, other = (curvature.operator(linearise(model, (inputs, y))) for inputs in (x, -x))
    contradicted = eqx.tree_at(lambda C: C.linearisation.jvp, one, other.linearisation.jvp)

    def solved(operator):
        damped, grad = cv.damped(operator, damping), one.linearisation.grad
        return lx.linear_solve(damped, grad, cv.SampleSpace(), throw=False)

    assert solved(one).result == lx.RESULTS.successful
    solution = solved(contradicted)
    assert solution.result == lx.RESULTS.stagnation
    assert solution.stats["residual"] > 1e-2


def test_a_step_without_damping_is_finite():
    model, batch = network("float32")
    optimiser = cv.NaturalGradient(
        cv.Supervised(cv.Categorical()),
        curvature=cv.ExactFisher(),
        damping=0.0,
        search=optx.LearningRate(0.1),
    )
    new, _, info = optimiser.step(model, batch, optimiser.init(model))
    assert info.solver == "SampleSpace"
    assert np.isfinite(flat(eqx.filter(new, eqx.is_inexact_array))).all()


def test_sample_space_takes_curvatures_only():
    matrix = lx.MatrixLinearOperator(jnp.eye(3), lx.positive_semidefinite_tag)
    with pytest.raises(ValueError, match=r"AbstractPullback.*MatrixLinearOperator.*CG"):
        lx.linear_solve(cv.damped(matrix, 1.0), jnp.ones(3), cv.SampleSpace())


def test_steps_can_be_mapped_over_dampings(x64):
    model, batch = network("float64", n=4)
    dampings = jnp.asarray([1e-3, 1e-1])
    curvature = cv.ExactFisher()
    many = jax.vmap(lambda damping: solve(model, batch, damping, curvature)[0])(dampings)
    for damping, d in zip(dampings, many, strict=True):
        np.testing.assert_allclose(d, solve(model, batch, damping, curvature)[0], rtol=1e-9)


# --- its parts -------------------------------------------------------------------------------


def blocks(matrix, widths):
    """A symmetric matrix as block columns from the diagonal down."""
    columns, offset = [], 0
    for width in widths:
        columns.append(jnp.asarray(matrix[offset:, offset : offset + width]))
        offset += width
    return LowerBlocks(tuple(columns))


@pytest.mark.parametrize("rank", [20, 3])
@pytest.mark.parametrize("widths", [(9,), (4, 4, 1)])
def test_a_blocked_factor_solves(x64, widths, rank):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(9, rank))
    gram, b = A @ A.T, rng.normal(size=(9, 2))
    held = blocks(gram, widths)
    np.testing.assert_allclose(held.as_symmetric_matrix(), gram)
    np.testing.assert_allclose(held.symmetric_mv(jnp.asarray(b)), gram @ b, rtol=1e-12)
    factor = jax.jit(factorise)(held, jnp.asarray(1e-3))
    assert not factor.by_eigenvalues
    expected = np.linalg.solve(gram + 1e-3 * np.eye(9), b)
    np.testing.assert_allclose(factor.solve(jnp.asarray(b)), expected, rtol=1e-9)


@pytest.mark.parametrize("widths", [(9,), (4, 4, 1)])
def test_a_singular_gram_matrix_is_shifted_by_its_rounding_error(x64, widths):
    rng = np.random.default_rng(0)
    A, b = rng.normal(size=(9, 3)), rng.normal(size=(9, 1))
    gram = A @ A.T
    factor = jax.jit(factorise)(blocks(gram, widths), jnp.asarray(0.0))
    assert factor.by_eigenvalues
    assert 0 < factor.damping < 1e-13 * np.linalg.norm(gram, 2)
    x = np.asarray(factor.solve(jnp.asarray(A @ A.T @ b)))
    np.testing.assert_allclose(gram @ x, gram @ b, atol=1e-9 * np.linalg.norm(gram @ b))


SPLITS = [("tanh", likelihood) for likelihood in cases.LIKELIHOODS] + [
    ("dropout", "categorical"),
    ("rows", "categorical"),
    ("several_terms", "gaussian"),
]


@pytest.mark.parametrize(("model", "likelihood"), slow_but(SPLITS[-1:], SPLITS))
def test_a_split_of_the_gradient_adds_up(x64, model, likelihood):
    case = cases.MODELS[model](likelihood)
    names = ["empirical_fisher", "exact_fisher", "true_fisher", "gauss_newton"]

    @jax.jit
    def totals():
        operators = cases.operators(
            case, likelihood, jax.random.key(0), case.model, case.batch, names
        )
        found = []
        for C in operators.values():
            options, total = C.gradient_options(), C.rows(C.layout()).transpose_mv
            covered = flat(total(options["coefficients"]))
            if options["remainder"] is not None:
                covered = covered + flat(C.linearisation.vjp(options["remainder"]))
            found.append((covered, flat(C.linearisation.grad)))
        return found

    for total, grad in totals():
        np.testing.assert_allclose(total, grad, atol=1e-13)


def test_a_drawn_target_that_is_the_datum_covers_the_gradient(x64):
    """Then the step of one sample is that of the empirical Fisher, to the last digits."""
    model, (x, _) = network("float64", scale=300.0)
    batch = x, jnp.argmax(jax.vmap(model)(x), axis=1)  # all but certain
    linearisation = cv.Supervised(cv.Categorical()).linearise(model, batch)
    C = cv.SampledFisher(1).operator(linearisation, key=jax.random.key(0))
    columns = columns_of(linearisation, C.factors)
    split = split_gradient(linearisation, columns, C.coefficients)
    (left,) = split.remainder
    assert np.abs(left).max() <= 1e-12 * np.abs(linearisation.cotangents[0]).max()


@pytest.mark.parametrize("likelihood", [cv.Categorical(), cv.Bernoulli(), cv.Gaussian(0.3)])
@pytest.mark.parametrize("shape", [(4,), (2, 3)])
def test_thin_factors_are_factors_of_the_fisher_matrix(x64, likelihood, shape):
    z = 3 * jax.random.normal(jax.random.key(0), shape)
    S = likelihood.fisher_factor(z).as_matrix()
    thin = likelihood.thin_fisher_factor(z).as_matrix()
    np.testing.assert_allclose(thin @ thin.T, S @ S.T, atol=1e-14)
    c = shape[-1]
    fewer = z.size // c if isinstance(likelihood, cv.Categorical) else 0
    assert thin.shape == (z.size, z.size - fewer)


@pytest.mark.parametrize("likelihood", [cv.Categorical(), cv.Bernoulli(), cv.Gaussian(0.3)])
def test_coefficients_make_the_gradient_of_the_columns(x64, likelihood):
    z = jax.random.normal(jax.random.key(0), (4,))
    y = (
        jnp.asarray(2)
        if isinstance(likelihood, cv.Categorical)
        else jnp.asarray([0.0, 1.0, 1.0, 0.0])
    )
    found = likelihood.fisher_coefficients(z, y)
    S = likelihood.thin_fisher_factor(z)
    np.testing.assert_allclose(
        S.mv(found.values), jax.grad(lambda z: likelihood.nll(z, y))(z), atol=1e-14
    )
