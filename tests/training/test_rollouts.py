"""Runs in an environment: the model itself generates the batches."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import curvature as cv
from environments import CartPole, OnPolicy
from training import Stepper, preflight, train
from training.sources import ROLLOUT_STREAM, source

SOURCE = OnPolicy(CartPole(), time_steps=200, environments=2, discount=0.99)
OBJECTIVE = cv.Supervised(cv.PolicyGradient(cv.Categorical()))
SGD = cv.FirstOrder(OBJECTIVE, optax.sgd(0.1))


@pytest.fixture
def policy():
    return eqx.nn.Linear(4, 2, key=jax.random.key(0))


@pytest.fixture
def on_policy(make_run, policy):
    return lambda **kwargs: make_run(
        **{"model": policy, "dataset": SOURCE, "batch_size": 200, "optimiser": SGD, **kwargs}
    )


def test_a_step_learns_from_the_rollout_of_its_key(policy):
    data, draw = source(SOURCE)
    stepper = Stepper(SGD, policy, SGD.init(policy), data, 5, draw)
    order = jnp.zeros((1, 200), jnp.int32)
    stepper.compile(order)
    state, draw = SGD.init(policy), eqx.filter_jit(SOURCE.batch)
    for step in range(2):
        record = stepper.read(stepper.step(order))
        key = jax.random.fold_in(jax.random.key(5), step)
        batch, numbers = draw(
            policy, step=jnp.int32(step), key=jax.random.fold_in(key, ROLLOUT_STREAM)
        )
        policy, state, info = SGD.step(policy, batch, state, key=key)
        np.testing.assert_allclose(record["loss"], info.loss, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(record["mean_return"], numbers["mean_return"])
        assert record["environment_steps"] == 200 * (step + 1)
    np.testing.assert_allclose(stepper.model.weight, policy.weight, rtol=1e-4, atol=1e-6)


def test_a_run_records_returns_and_is_tested_by_its_mean_return(on_policy, tmp_path, read_records):
    summary = train(on_policy(epochs=3), tmp_path)
    records = read_records(tmp_path)
    assert [record["environment_steps"] for record in records] == [200, 400, 600]
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert all(record["mean_return"] > 0 for record in records)
    assert summary["status"] == "finished"
    assert summary["train_loss"] is None is summary["test_loss"]
    final = eqx.tree_deserialise_leaves(
        tmp_path / "model.eqx", eqx.nn.Linear(4, 2, key=jax.random.key(9))
    )
    assert summary["test"] == {"mean_return": pytest.approx(float(SOURCE.mean_return(final)))}
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(on_policy, tmp_path, read_records):
    train(on_policy(epochs=4), tmp_path / "whole")
    train(on_policy(epochs=2), tmp_path / "parts")
    train(on_policy(epochs=4), tmp_path / "parts", resume=True)
    whole, parts = (read_records(tmp_path / name) for name in ("whole", "parts"))
    assert [{**r, "seconds": 0, "processor_seconds": 0} for r in whole] == [
        {**r, "seconds": 0, "processor_seconds": 0} for r in parts
    ]


def test_the_plan_counts_the_time_steps(on_policy):
    optimiser = cv.NaturalGradient(OBJECTIVE, cv.ExactFisher(), cv.CG(rtol=1e-3, max_steps=2))
    plan = preflight(on_policy(optimiser=optimiser)).plan
    assert plan.rows == 200 * 2


def test_a_batch_size_that_is_not_the_time_steps_is_refused(on_policy):
    with pytest.raises(
        ValueError, match=r"`batch_size` must be the number of time steps .* 200, got 100\."
    ):
        preflight(on_policy(batch_size=100))


@pytest.mark.usefixtures("as_installed")
def test_a_likelihood_without_advantages_is_refused(on_policy):
    optimiser = cv.FirstOrder(cv.Supervised(cv.Gaussian()), optax.sgd(0.1))
    with pytest.raises(ValueError, match="takes one array as its target, got a tuple of 2"):
        preflight(on_policy(optimiser=optimiser))
