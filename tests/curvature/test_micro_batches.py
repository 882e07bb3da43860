"""Micro-batches give the numbers of the whole batch, with the memory of one micro-batch."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optax
import optimistix as optx
import pytest

import curvature as cv
from curvature.operators import quadratic_forms
from tests.curvature import cases
from tests.curvature.cases import CURVATURES, MODELS, Case
from tests.selection import slow_but

MOST = 2  # there are five examples, so the last part repeats one example of the part before
KEY = jax.random.key(3)
TWO = ("gauss_newton", "true_fisher")
STRUCTURES = {
    "KFAC": cv.KFAC,
    "reduce": lambda of: cv.KFAC(of, approximation="reduce"),
    "factored": lambda of: cv.KFAC(of, damping="factored"),
    "EKFAC": cv.EKFAC,
    "BlockDiagonal": cv.BlockDiagonal,
    "Diagonal": cv.Diagonal,
    "LowRank": lambda of: cv.LowRank(of, 3),
}
ONE_TERM = [model for model in MODELS if model not in ("tanh", "several_terms")]


def in_parts(objective: Any, most: int | None = MOST) -> cv.AbstractObjective:
    """The same objective with micro-batches."""
    of = objective.by_name if isinstance(objective, cv.Objective) else objective.likelihood
    return type(objective)(of, objective.l2, most)


def assert_same(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    """Checks equality up to rounding, relative to the largest number of all arrays."""
    assert jtu.tree_structure(found) == jtu.tree_structure(expected)
    pairs = list(zip(jtu.tree_leaves(found), jtu.tree_leaves(expected), strict=True))
    largest = max(float(jnp.max(jnp.abs(b), initial=0)) for _, b in pairs)
    assert largest > 0
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * largest)


def linearised(case: Case, objective: cv.AbstractObjective) -> cv.AbstractLinearisation:
    return objective.linearise(case.model, case.batch, trainable=case.trainable, key=case.key)


def numbers(case: Case, objective: cv.AbstractObjective, names: Sequence[str]) -> dict[str, Any]:
    """All numbers that a linearisation and its curvatures provide, by one program."""
    likelihood = "categorical"

    @eqx.filter_jit
    def of_case() -> dict[str, Any]:
        here = linearised(case, objective)
        flat, unravel = jfu.ravel_pytree(here.params)
        v = unravel(jnp.asarray(np.random.default_rng(0).normal(size=flat.size)))
        found = {
            "loss": (here.loss, objective.loss(case.model, case.batch, key=case.key)),
            "elsewhere": here.loss_at(v),
            "gradient": here.grad,
            "outputs": here.outputs,
            "pushed": here.jvp(v),
            "pulled": here.vjp(here.jvp(v)),
            "first": here.first(3).grad,
            "gradient of the loss": objective.loss_and_gradient(
                *eqx.partition(case.model, case.trainable), case.batch, key=case.key
            )[2],
        }
        for name in names:
            C = cases.curvature(name, likelihood).operator(here, key=KEY)
            found[name] = C.mv(v), quadratic_forms(C, [v, here.grad])
        return found

    return of_case()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("model", "names"),
    slow_but(
        [("several_terms", TWO)],
        [
            ("several_terms", TWO),
            ("tanh", CURVATURES),
            *((model, ["true_fisher"]) for model in ONE_TERM),
        ],
    ),
)
def test_numbers_are_those_of_the_whole_batch(model, names):
    case = MODELS[model](cases.ONLY_LIKELIHOOD.get(model, "categorical"))
    found = numbers(case, in_parts(case.objective), names)
    expected = numbers(case, case.objective, names)
    for name in expected:
        assert_same(found[name], expected[name])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("model", "name"),
    slow_but(
        [("several_terms", "KFAC")],
        [
            *(("several_terms", name) for name in STRUCTURES),
            *((model, "EKFAC") for model in ("called_twice", "words", "depthwise", "dropout")),
        ],
    ),
)
def test_structures_are_those_of_the_whole_batch(model, name):
    """The operators after two updates are compared, so averages, inverses and bases count, too."""
    case = MODELS[model]("categorical")
    structure = STRUCTURES[name](cv.SampledFisher(2))

    @eqx.filter_jit
    def of_case(objective: Any) -> Any:
        here = linearised(case, objective)
        state, operator = structure.init(here), None
        for key in jax.random.split(KEY, 2):
            operator, state = structure.update(here, state, key=key)
            operator, state = structure.refresh(operator, state, jnp.asarray(0.1))
        assert operator is not None
        return operator.as_matrix(), operator.inverse(jnp.asarray(0.1)).as_matrix()

    assert_same(of_case(in_parts(case.objective)), of_case(case.objective), 1e-9)


OPTIMISERS = {
    "CG": lambda objective: cv.NaturalGradient(
        objective,
        cv.GaussNewton(),
        cv.CG(max_steps=3),
        preconditioner=cv.KFAC(cv.SampledFisher(1)),
        damping=cv.LevenbergMarquardt(),
        momentum=cv.QuadraticMomentum(),
    ),
    "SampleSpace": lambda objective: cv.NaturalGradient(
        objective, cv.SampledFisher(1), cv.SampleSpace(), search=optx.BacktrackingArmijo()
    ),
    "trust region": lambda objective: cv.NaturalGradient(
        objective, cv.KFAC(cv.EmpiricalFisher()), search=cv.KLTrustRegion(0.01)
    ),
    "adam": lambda objective: cv.FirstOrder(objective, optax.adam(1e-2)),
    "proximal": lambda objective: cv.ProximalPoint(objective, max_steps=5),
}


@pytest.mark.usefixtures("x64", "standard_promotion", "as_installed")
@pytest.mark.parametrize("name", slow_but(["CG"], OPTIMISERS))
def test_steps_are_those_of_the_whole_batch(name):
    """The steps have a penalty, dropout, and three micro-batches each."""
    case = MODELS["dropout"]("categorical")
    ends = []
    for most in (None, MOST):
        objective = cv.Supervised(cv.Categorical(), l2=0.1, micro_batch=most)
        optimiser, model = OPTIMISERS[name](objective), case.model
        state = optimiser.init(model, batch=case.batch)
        losses = []
        for key in jax.random.split(KEY, 3):
            model, state, info = optimiser.step(model, case.batch, state, key=key)
            assert info.accepted
            losses.append(info.loss)
        ends.append((eqx.filter(model, eqx.is_array), losses))
    assert_same(ends[1], ends[0], 1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_an_example_of_weight_zero_counts_nowhere():
    """Its NaN or infinity has no effect, in any micro-batch."""
    case = MODELS["tanh"]("categorical")
    x, y = case.batch
    weights = jnp.asarray([0.5, 0.0, 2.0, 1.0, 0.0])
    x = x.at[1].set(jnp.nan).at[4].set(jnp.inf)
    structure = cv.KFAC(cv.SampledFisher(1))
    found = []
    for objective in (case.objective, in_parts(case.objective)):
        here = objective.linearise(case.model, (x, y, weights))
        found.append((here.loss, here.grad, structure.operator(here, key=KEY).as_matrix()))
    assert_same(found[1], found[0])


def test_targets_outside_the_domain_are_refused_or_make_the_loss_nan():
    case = MODELS["tanh"]("categorical")
    objective, (x, y) = in_parts(case.objective), case.batch
    batch = x.astype(jnp.float32), y.at[3].set(7)
    model = jtu.tree_map(lambda w: w.astype(jnp.float32) if eqx.is_array(w) else w, case.model)
    for ask in (objective.loss, objective.linearise):
        with pytest.raises(ValueError, match="from 0 to 2"):
            ask(model, batch)
    assert jnp.isnan(eqx.filter_jit(objective.loss)(model, batch))
    here = eqx.filter_jit(objective.linearise)(model, batch)
    assert jnp.isnan(here.loss)
    assert not here.valid


@pytest.mark.usefixtures("x64", "as_installed")
def test_derivatives_through_a_solve_are_those_of_the_whole_batch():
    """The derivative of the squared length of a step with respect to the weights is compared."""
    case = MODELS["tanh"]("categorical")
    params, static = eqx.partition(case.model, eqx.is_inexact_array)

    @eqx.filter_jit
    def gradient(objective: Any) -> Any:
        optimiser = cv.NaturalGradient(
            objective,
            cv.GaussNewton(),
            cv.CG(rtol=1e-12, max_steps=200),
            search=optx.LearningRate(1.0),
        )

        def length(params: Any) -> Any:
            model = eqx.combine(params, static)
            new, _, _ = optimiser.step(model, case.batch, optimiser.init(model))
            moved = jtu.tree_map(jnp.subtract, eqx.filter(new, eqx.is_array), params)
            return optx.two_norm(moved) ** 2

        return jax.grad(length)(params)

    assert_same(gradient(in_parts(case.objective)), gradient(case.objective), 1e-8)


class Normalised(eqx.Module):
    """An MLP between two normalisations, whose weights are no layers of K-FAC."""

    first: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP
    last: eqx.nn.LayerNorm

    def __init__(self):
        self.first, self.last = eqx.nn.LayerNorm(16), eqx.nn.LayerNorm(4)
        self.mlp = eqx.nn.MLP(16, 4, 64, 2, key=jax.random.key(0))

    def __call__(self, x):
        return self.last(self.mlp(self.first(x)))


def temporaries(optimiser: Any, examples: int) -> int:
    """The bytes of temporary memory of a compiled step, without its arguments and results."""
    model = Normalised()
    float32, int32 = jnp.float32, jnp.int32
    batch = (
        jax.ShapeDtypeStruct((examples, 16), float32),
        jax.ShapeDtypeStruct((examples,), int32),
    )
    arrays, static = eqx.partition((model, optimiser.init(model, batch=batch)), eqx.is_array)

    def step(arrays: Any, batch: Any, key: Any) -> Any:
        model, state = eqx.combine(arrays, static)
        return eqx.filter(optimiser.step(model, batch, state, key=key), eqx.is_array)

    compiled = jax.jit(step).lower(arrays, batch, jax.random.key(0)).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


STEPS = {
    "CG": lambda objective: cv.NaturalGradient(objective, cv.GaussNewton(), cv.CG(max_steps=5)),
    "KFAC": lambda objective: cv.NaturalGradient(objective, cv.KFAC(cv.SampledFisher(1))),
    "EKFAC": lambda objective: cv.NaturalGradient(objective, cv.EKFAC(cv.SampledFisher(1))),
    "sgd": lambda objective: cv.FirstOrder(objective, optax.sgd(0.1)),
}


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("name", slow_but(["sgd"], STEPS))
def test_memory_does_not_grow_with_the_batch(name):
    """Only outputs, keys and a few numbers per example grow with the batch.

    They take much less memory than the intermediate values of an example.
    """
    objective = cv.Supervised(cv.Categorical(), micro_batch=64)
    small, large = (temporaries(STEPS[name](objective), n) for n in (1024, 4096))
    per_example = (large - small) / 3072
    whole = STEPS[name](cv.Supervised(cv.Categorical()))
    assert per_example < 2 * 64 * 4 / 2  # half of two layers' outputs
    assert (temporaries(whole, 4096) - temporaries(whole, 1024)) / 3072 > 2 * 64 * 4


@pytest.mark.usefixtures("as_installed")
def test_half_precision_is_added_up_in_single():
    """There are 64 equal parts. In half precision their sum would stop growing long before 64."""
    n, most = 256, 4
    model = jtu.tree_map(lambda w: w.astype(jnp.bfloat16), eqx.nn.Linear(2, 2, key=KEY))
    batch = jnp.ones((n, 2), jnp.bfloat16), jnp.zeros(n, int)
    wide = jtu.tree_map(lambda w: w.astype(jnp.float32), (model, batch[0]))
    objective = cv.Supervised(cv.Categorical(), micro_batch=most)
    found, expected = (
        objective.loss_and_gradient(*eqx.partition(of, eqx.is_inexact_array), (inputs, batch[1]))[2]
        for of, inputs in ((model, batch[0]), wide)
    )
    for a, b in zip(jtu.tree_leaves(found), jtu.tree_leaves(expected), strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(float), b, rtol=2**-7)
