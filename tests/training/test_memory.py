import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import optimistix as optx
import pytest

import curvature as cv
from data import Rows, Stream
from training import fitting_micro_batch, preflight
from training.feed import IN_FLIGHT
from training.memory import needs_of, peak_memory
from training.preflight import describe_run, memory_warning

KIB = jnp.zeros(256, jnp.float32)


def peak_kib(fn, *arguments):
    return peak_memory(jax.make_jaxpr(fn)(*arguments).jaxpr) / 1024


def test_the_peak_counts_arrays_that_live_at_once():
    # Each sine needs only its own operand, so two arrays live at once.
    assert peak_kib(lambda x: jnp.sin(jnp.sin(jnp.sin(x))), KIB) == 2
    assert peak_kib(lambda x: (jnp.sin(x), jnp.cos(x), jnp.exp(x)), KIB) == 3
    assert peak_kib(lambda x: jnp.sin(x).reshape(16, 16)[None], KIB) == 1


def test_unused_results_are_not_counted():
    def fn(x):
        jnp.outer(x, x)
        return jnp.sin(x)

    assert peak_kib(fn, KIB) == 1


def test_inner_computations_are_counted():
    def outer(x):
        return jnp.sum(jnp.outer(x, x))

    alone = peak_kib(outer, KIB)
    assert alone >= 256
    assert peak_kib(jax.jit(outer), KIB) == alone
    assert peak_kib(lambda x: jax.lax.cond(x[0] > 0, outer, jnp.sum, x), KIB) == pytest.approx(
        alone, rel=0.01
    )
    # The arrays of one iteration of a loop are freed before the next.
    turns = peak_kib(lambda x: jax.lax.scan(lambda s, _: (s + outer(x), None), 0.0, length=9), KIB)
    assert turns == pytest.approx(alone, rel=0.01)


def natural(curvature, *solver, **options):
    return cv.NaturalGradient(
        cv.Supervised(cv.Categorical(), **options),
        curvature,
        *solver,
        damping=1.0,
        search=optx.LearningRate(1e-2),
    )


def wide():
    net = eqx.nn.MLP(64, 10, 512, 2, key=jax.random.key(0))
    return eqx.nn.Sequential([eqx.nn.Lambda(jnp.ravel), net])


@pytest.mark.parametrize(
    "optimiser",
    [
        cv.FirstOrder(cv.Supervised(cv.Categorical()), optax.sgd(1e-3, momentum=0.9)),
        pytest.param(natural(cv.GaussNewton(), cv.CG(max_steps=3)), marks=pytest.mark.slow),
        natural(cv.SampledFisher(1), cv.SampleSpace()),
        pytest.param(natural(cv.KFAC(cv.SampledFisher(1))), marks=pytest.mark.slow),
    ],
)
def test_the_estimate_is_within_a_factor_of_three_of_the_compiled_step(make_run, optimiser):
    model = wide()
    run = make_run(model=model, optimiser=optimiser, batch_size=1024)
    x, y = (jnp.asarray(array[:1024]) for array in run.dataset.train)
    state = optimiser.init(model, batch=(x, y))
    arrays, static = eqx.partition((model, state), eqx.is_array)

    def step(arrays, batch, key):
        model, state = eqx.combine(arrays, static)
        return eqx.filter(optimiser.step(model, batch, state, key=key), eqx.is_array)

    compiled = jax.jit(step).lower(arrays, (x, y), jax.random.key(0)).compile()
    needs, taken = needs_of(run), compiled.memory_analysis().temp_size_in_bytes
    assert needs.weights == sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
    assert taken / 3 < needs.step < 3 * taken


def test_the_training_part_is_counted(make_run, dataset):
    parts = jax.tree.leaves(dataset.train)
    assert needs_of(make_run()).data == sum(array.nbytes for array in parts)


def test_the_batches_of_a_stream_in_flight_are_counted(make_run, dataset):
    stream = Stream("rows", Rows(dataset.train), dataset.test, (8, 8), 10)
    needs = needs_of(make_run(dataset=stream, batch_size=100))
    assert needs.data == IN_FLIGHT * 100 * (64 + 1) * 4
    in_memory = needs_of(make_run(batch_size=100))
    assert needs.step == in_memory.step - 100 * (64 + 1) * 4


def with_memory(monkeypatch, nbytes):
    monkeypatch.setattr(sys.modules["training.preflight"], "memory", lambda: nbytes)


def test_auto_chooses_the_largest_micro_batch_that_fits(make_run, monkeypatch):
    def run_of(micro_batch):
        objective = cv.Supervised(cv.Categorical(), micro_batch=micro_batch)
        optimiser = cv.FirstOrder(objective, optax.sgd(1e-2))
        return make_run(model=wide(), optimiser=optimiser, batch_size=1000)

    with_memory(monkeypatch, needs_of(run_of(None)).upper_bound)
    assert fitting_micro_batch(run_of) is None
    with_memory(monkeypatch, needs_of(run_of(128)).upper_bound)
    assert fitting_micro_batch(run_of) == 128
    with_memory(monkeypatch, needs_of(run_of(1)).upper_bound - 1)
    with pytest.raises(
        ValueError, match=r"`micro_batch=auto` found no size that fits: .* about .*MiB"
    ):
        fitting_micro_batch(run_of)


def test_auto_refuses_a_model_for_other_inputs(make_run):
    """`micro_batch=auto` traces a step before the other checks, and must give the same error."""
    wrong = eqx.nn.Sequential(
        [eqx.nn.Lambda(jnp.ravel), eqx.nn.Linear(9, 10, key=jax.random.key(0))]
    )
    with pytest.raises(ValueError, match=r"The model does not accept the inputs of .*`digits`"):
        fitting_micro_batch(lambda micro_batch: make_run(model=wrong))


def test_a_run_that_may_not_fit_gets_a_warning(make_run, monkeypatch):
    run = make_run()
    found = preflight(run)
    assert "; memory about " in describe_run(run, found)
    assert memory_warning(run, found) is None
    with_memory(monkeypatch, found.needs.total - 1)
    assert "`micro_batch=auto`" in memory_warning(run, found)
