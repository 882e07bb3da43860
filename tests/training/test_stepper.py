import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
from data import batch_indices
from training import Stepper
from training.device import on_device

SEED, BATCH_SIZE = 5, 300


class Dropped(eqx.Module):
    """A model with dropout, so its steps depend on the key."""

    inner: eqx.Module
    dropout: eqx.nn.Dropout

    def __call__(self, x, *, key=None):
        return self.inner(self.dropout(x, key=key))


def start(optimiser, model, dataset) -> tuple[Stepper, jax.Array]:
    order = jnp.asarray(batch_indices(SEED, 0, dataset.num_train, BATCH_SIZE), jnp.int32)
    data = on_device(dataset.train)
    return Stepper(optimiser, model, optimiser.init(model), data, SEED).compile(order), order


def test_steps_are_those_of_the_optimiser_on_recomputed_batches_and_keys(sgd, model, dataset):
    expected = Dropped(model, eqx.nn.Dropout(0.3))
    stepper, order = start(sgd, expected, dataset)
    state = sgd.init(expected)
    inputs, labels = dataset.train
    for step in range(3):
        record = stepper.read(stepper.step(order))
        rows = batch_indices(SEED, 0, dataset.num_train, BATCH_SIZE)[step]
        key = jax.random.fold_in(jax.random.key(SEED), step)
        batch = (jnp.asarray(inputs[rows]), jnp.asarray(labels[rows]))
        expected, state, info = sgd.step(expected, batch, state, key=key)
        for name in ("loss", "grad_norm", "step_norm"):
            np.testing.assert_allclose(record[name], getattr(info, name), rtol=1e-4, err_msg=name)
    for ours, theirs in zip(
        jax.tree.leaves(eqx.filter(stepper.model, eqx.is_array)),
        jax.tree.leaves(eqx.filter(expected, eqx.is_array)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_record_holds_plain_values(sgd, model, dataset):
    stepper, order = start(sgd, model, dataset)
    record = stepper.read(stepper.step(order))
    assert record["accepted"] is True
    assert type(record["solver_steps"]) is int
    assert type(record["loss"]) is float
    assert record["solver"] == ""  # a first-order optimiser has no solver
    assert record["result"] == ""


def test_the_callers_model_survives_the_donation(sgd, model, dataset, leaves_equal):
    before = jax.tree.map(lambda leaf: np.array(leaf) if eqx.is_array(leaf) else leaf, model)
    stepper, order = start(sgd, model, dataset)
    stepper.read(stepper.step(order))
    after = jax.tree.map(lambda leaf: np.array(leaf) if eqx.is_array(leaf) else leaf, model)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not leaves_equal(stepper.model, model)


class Counting(eqx.Module):
    """Counts how often a model is traced."""

    inner: eqx.Module
    calls: list = eqx.field(static=True)

    def __call__(self, x):
        self.calls.append(None)
        return self.inner(x)


def test_steps_and_replaced_arrays_do_not_trace_again(sgd, model, dataset):
    calls: list[None] = []
    stepper, order = start(sgd, Counting(model, calls), dataset)
    traced = len(calls)
    assert traced > 0
    for _ in range(3):
        stepper.read(stepper.step(order))
    stepper.leaves = [jnp.asarray(np.asarray(leaf)) for leaf in stepper.leaves]
    stepper.read(stepper.step(order))
    assert len(calls) == traced


def test_an_optimiser_that_changes_the_structure_is_named(model, dataset, sgd):
    class Growing(eqx.Module):
        objective: cv.AbstractObjective

        def init(self, model):
            return ()

        def step(self, model, batch, state, *, key):
            model, _, info = sgd.step(model, batch, sgd.init(model), key=key)
            return model, (jnp.zeros(3),), info

    with pytest.raises(TypeError, match=r"`Growing\.step` must return .* structure"):
        start(Growing(sgd.objective), model, dataset)


def test_data_take_the_precision_of_the_session(dataset):
    inputs, labels = on_device(dataset.train)
    assert (inputs.dtype, labels.dtype) == (jnp.float32, jnp.int32)
    with jax.enable_x64(True):
        inputs, labels = on_device(dataset.train)
        assert (inputs.dtype, labels.dtype) == (jnp.float64, jnp.int32)


@pytest.mark.usefixtures("x64")
def test_float64_is_not_lost_on_the_way_to_the_record(sgd, make_net, dataset):
    model = make_net(10)
    stepper, order = start(sgd, model, dataset)
    inputs, labels = on_device(dataset.train)
    expected = eqx.filter_jit(sgd.objective.loss)(model, (inputs[order[0]], labels[order[0]]))
    assert stepper.read(stepper.step(order))["loss"] == pytest.approx(float(expected), rel=1e-13)
