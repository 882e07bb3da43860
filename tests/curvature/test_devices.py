"""A batch on a mesh of eight devices: the numbers of one device, and a share of its work."""

import contextlib
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
import numpy as np
import optax
import optimistix as optx
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import curvature as cv
from tests.curvature.cases import CURVATURES, curvature
from tests.selection import slow_but

N, DEVICES = 32, 8
KEY = jax.random.key(3)
CATEGORICAL = cv.Supervised(cv.Categorical())
STRUCTURES = {
    "KFAC": cv.KFAC,
    "factored": lambda of: cv.KFAC(of, damping="factored"),
    "EKFAC": cv.EKFAC,
    "BlockDiagonal": cv.BlockDiagonal,
    "Diagonal": cv.Diagonal,
    "LowRank": lambda of: cv.LowRank(of, 3),
}
pytestmark = pytest.mark.usefixtures("x64")


def natural(metric, *solver, objective=CATEGORICAL, **parts):
    parts = {"damping": 0.1, "search": optx.LearningRate(0.1)} | parts
    return cv.NaturalGradient(objective, metric, *solver, **parts)


def of(name):
    return curvature(name, "categorical")


IN_PARTS = cv.Supervised(cv.Categorical(), micro_batch=16)
OPTIMISERS = {
    "sgd": lambda: cv.FirstOrder(CATEGORICAL, optax.sgd(0.1, momentum=0.9)),
    "micro-batches": lambda: natural(cv.GaussNewton(), cv.CG(max_steps=3), objective=IN_PARTS),
    "preconditioned": lambda: natural(
        cv.GaussNewton(), cv.CG(max_steps=2), preconditioner=cv.KFAC(cv.SampledFisher())
    ),
    "searched": lambda: natural(
        cv.GaussNewton(),
        cv.CG(max_steps=3),
        damping=cv.LevenbergMarquardt(),
        search=optx.BacktrackingArmijo(),
    ),
    "spring": lambda: natural(cv.EmpiricalFisher(), cv.SampleSpace(), momentum=cv.Spring(0.9)),
    "averaged": lambda: cv.Averaged(cv.FirstOrder(CATEGORICAL, optax.sgd(0.1)), decay=0.9),
}
OPTIMISERS |= {
    f"{name} by CG": lambda name=name: natural(of(name), cv.CG(max_steps=3)) for name in CURVATURES
}
OPTIMISERS |= {
    f"{name} by rows": lambda name=name: natural(of(name), cv.SampleSpace())
    for name in CURVATURES
    if name != "identity"
}
OPTIMISERS |= {
    f"{structure} of {name}": lambda name=name, make=make: natural(make(of(name)))
    for structure, make in STRUCTURES.items()
    for name in CURVATURES
    if name != "identity"
}
SOME = [name for name in OPTIMISERS if "true_fisher" in name or " " not in name]
QUICK = ["sgd", "KFAC of true_fisher"]


@pytest.fixture(scope="module")
def problem():
    with jax.enable_x64(True):
        model = eqx.nn.Sequential(
            [
                eqx.nn.Linear(6, 16, key=jax.random.key(0)),
                eqx.nn.Lambda(jnp.tanh),
                eqx.nn.Dropout(0.2),
                eqx.nn.Linear(16, 5, key=jax.random.key(1)),
            ]
        )
        rng = np.random.default_rng(0)
        batch = jnp.asarray(rng.normal(size=(N, 6))), jnp.asarray(rng.integers(5, size=N))
        return model, batch


def mesh_of(kind):
    return jax.make_mesh((DEVICES,), ("examples",), (kind,), devices=jax.devices()[:DEVICES])


def on(mesh, tree, *axes):
    arrays, static = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.device_put(arrays, NamedSharding(mesh, PartitionSpec(*axes))), static)


def two_steps(optimiser, model, batch, put=lambda tree, *axes: tree):
    """The change of all numbers, of weights and state, by two steps."""
    state = optimiser.init(model, batch=batch)
    model, state, key = put(model), put(state), put(KEY)
    batch = put(batch, "examples")
    before = eqx.filter((model, state), eqx.is_inexact_array)
    for _ in range(2):
        model, state, info = optimiser.step(model, batch, state, key=key)
    assert info.accepted
    after = eqx.filter((model, state), eqx.is_inexact_array)
    change = jtu.tree_map(lambda a, b: np.asarray(a) - np.asarray(b), after, before)
    return jtu.tree_leaves(change), (float(info.loss), float(info.step_norm))


def assert_same(found, expected):
    (found, numbers), (expected, expected_numbers) = found, expected
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11 * max(1e-3, np.max(np.abs(b))))
    assert numbers == pytest.approx(expected_numbers, rel=1e-12)


def assert_those_of_one_device(optimiser, problem, kind, *, mesh_is_set):
    """For each value of `mesh_is_set`: whether the user calls `jax.set_mesh`."""
    mesh, expected = mesh_of(kind), two_steps(optimiser, *problem)
    for is_set in mesh_is_set:
        with jax.set_mesh(mesh) if is_set else contextlib.nullcontext():
            assert_same(two_steps(optimiser, *problem, lambda *of: on(mesh, *of)), expected)


@pytest.mark.parametrize("name", slow_but(QUICK, list(OPTIMISERS)))
def test_steps_are_those_of_one_device(name, problem):
    """Draws, dropout and states included."""
    is_set = (False, True) if name in SOME else (False,)
    assert_those_of_one_device(OPTIMISERS[name](), problem, AxisType.Auto, mesh_is_set=is_set)


@pytest.mark.parametrize("name", slow_but(["averaged"], SOME))
def test_a_mesh_with_explicit_axes(name, problem):
    kind = AxisType.Explicit
    assert_those_of_one_device(OPTIMISERS[name](), problem, kind, mesh_is_set=(False, True))


def test_the_face_of_optax_on_explicit_axes(problem):
    model, batch = problem
    structure = cv.KFAC(cv.SampledFisher())
    params = eqx.filter(model, eqx.is_inexact_array)

    def direction(params, model, batch, key):
        transformation = cv.scale_by_curvature(
            CATEGORICAL, curvature=structure, model=model, batch=batch
        )
        state = transformation.init(params)
        extra = {"model": model, "batch": batch, "key": key}
        return transformation.update(params, state, params, **extra)[0]

    expected = direction(params, model, batch, KEY)
    mesh = mesh_of(AxisType.Explicit)
    with jax.set_mesh(mesh):
        found = direction(
            on(mesh, params), on(mesh, model), on(mesh, batch, "examples"), on(mesh, KEY)
        )
    for a, b in zip(jtu.tree_leaves(found), jtu.tree_leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a), b, rtol=1e-10, atol=1e-13)


def test_what_explicit_axes_do_not_allow_is_said(problem):
    model, batch = problem
    mesh = mesh_of(AxisType.Explicit)
    with jax.set_mesh(mesh), pytest.raises(ValueError, match=r"`jax\.sharding\.auto_axes`"):
        CATEGORICAL.loss(on(mesh, model), on(mesh, batch, "examples"))


def compiled(optimiser, model, batch, put):
    state = optimiser.init(model, batch=batch)
    arrays, static = eqx.partition((model, state), eqx.is_array)

    def step(arrays, batch, key):
        model, state = eqx.combine(arrays, static)
        return eqx.filter(optimiser.step(model, batch, state, key=key), eqx.is_array)

    return jax.jit(step).lower(put(arrays), put(batch, "examples"), put(KEY)).compile()


@pytest.mark.parametrize(
    "name",
    slow_but(
        ["sgd", "in parts"],
        ["sgd", "gauss_newton by CG", "in parts", "in odd parts", "dense"],
    ),
)
def test_every_device_does_its_share(name):
    """Of a batch that is large enough for the examples to be the work."""
    most = {"in parts": 256, "in odd parts": 100}.get(name)
    objective = cv.Supervised(cv.Categorical(), micro_batch=most)
    optimiser = natural(cv.GaussNewton(), cv.CG(max_steps=3), objective=objective)
    if name == "sgd":
        optimiser = OPTIMISERS[name]()
    if name == "dense":
        optimiser = natural(cv.GaussNewton(), lx.Cholesky(), objective=objective)
    # A dense C has chunks of rows: here two, and few weights.
    width, depth, n = (8, 1, 6400) if name == "dense" else (64, 2, 512)
    model = eqx.nn.MLP(32, 10, width, depth, key=jax.random.key(0))
    rng = np.random.default_rng(0)
    batch = jnp.asarray(rng.normal(size=(n, 32))), jnp.asarray(rng.integers(10, size=n))
    mesh = mesh_of(AxisType.Auto)
    with jax.set_mesh(mesh):
        shared = compiled(optimiser, model, batch, lambda *of: on(mesh, *of))
    alone = compiled(optimiser, model, batch, lambda tree, *axes: tree)
    flops = [program.cost_analysis()["flops"] for program in (shared, alone)]
    assert flops[0] <= 0.2 * flops[1]
    if most is None:  # parts are cut out of all inputs
        assert not re.search(r" all-gather(-start)?\(", shared.as_text())


@pytest.mark.parametrize(
    "curvature",
    [
        pytest.param(cv.SampledFisher(1), marks=pytest.mark.slow),
        cv.BlockDiagonal(cv.SampledFisher(1)),
    ],
)
def test_rows_are_gathered_and_not_cut_in_pieces(curvature):
    """Blocks of the Gram matrix are cut out of arrays that every device has."""
    model = eqx.nn.MLP(8, 4, 24, 1, key=jax.random.key(0))
    batch = jnp.zeros((256, 8)), jnp.zeros(256, jnp.int32)
    mesh = mesh_of(AxisType.Auto)
    with jax.set_mesh(mesh):
        program = compiled(natural(curvature), model, batch, lambda *of: on(mesh, *of)).as_text()
    assert not re.search(r" (collective-permute|all-to-all)(-start)?\(", program)


@pytest.mark.slow
@pytest.mark.usefixtures("as_installed")
def test_a_derivative_through_a_step(problem):
    """With what every device computes as a whole."""
    model, batch = problem

    def after(damping, model, batch, key):
        optimiser = natural(cv.SampledFisher(), cv.SampleSpace(), damping=damping)
        state = optimiser.init(model)
        model, _, _ = optimiser.step(model, batch, state, key=key)
        return CATEGORICAL.loss(model, batch, key=key)

    gradient = eqx.filter_jit(jax.grad(after))
    expected = gradient(jnp.asarray(0.1), model, batch, KEY)
    mesh = mesh_of(AxisType.Auto)
    with jax.set_mesh(mesh):
        found = gradient(
            on(mesh, jnp.asarray(0.1)), on(mesh, model), on(mesh, batch, "examples"), on(mesh, KEY)
        )
    np.testing.assert_allclose(found, expected, rtol=1e-10)
