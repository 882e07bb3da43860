"""The comparison's own arithmetic, and that its curves are those of training runs."""

import json

import jax
import numpy as np
import pytest

import curvature as cv
import models
from environments import CartPole, OnPolicy
from experiments.policy_gradient import curves as module
from experiments.policy_gradient.curves import best, curves, reached
from experiments.policy_gradient.methods import METHODS, OBJECTIVE, Method
from launch.runs import MODEL_STREAM
from training import Run, Settings, train

SMALL = OnPolicy(CartPole(), time_steps=200, environments=2, discount=0.99)


def test_the_target_is_reached_after_the_steps_that_were_trained_on():
    assert reached(np.array([20.0, 474.9, 475.0, 300.0])) == 2 * 5000
    assert reached(np.array([20.0, 30.0])) is None


def test_the_best_setting_reaches_the_target_soonest_or_ends_highest():
    never, late, soon = [100.0] * 6, [100.0] * 4 + [480.0] * 2, [100.0] * 2 + [480.0] * 4
    assert best(np.array([[never], [late], [soon]])) == 2
    assert best(np.array([[never], [[110.0] * 6]])) == 1


def test_weights_are_drawn_as_by_the_command_line():
    assert module.MODEL_STREAM == MODEL_STREAM


def test_all_methods_share_the_objective():
    for method in METHODS:
        for setting in method.settings:
            assert len(setting) == len(method.names)
        assert method.make(*method.settings[0]).objective is OBJECTIVE


@pytest.mark.slow
def test_a_curve_is_that_of_a_training_run(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "SOURCE", SMALL)

    def make(rate):
        return cv.NaturalGradient(
            OBJECTIVE, cv.ExactFisher(), cv.CG(rtol=1e-5, max_steps=3), damping=rate
        )

    method = Method("natural", ("λ",), ((0.5,),), make, 3)
    found = curves(method, method.settings, [4], 3)
    assert found.shape == (1, 1, 3)
    key = jax.random.fold_in(jax.random.key(4), MODEL_STREAM)
    model = models.MLP((4,), 2, width=32, depth=2, activation=jax.numpy.tanh, key=key)
    settings = Settings(seed=4, batch_size=200, epochs=3)
    run = Run(model, make(0.5), SMALL, settings, {}, "natural")
    summary = train(run, tmp_path)
    assert summary["steps"] == 3
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    returns = [json.loads(line)["mean_return"] for line in lines]
    # The first two: what differs by rounding draws the same actions for a while.
    np.testing.assert_allclose(found[0, 0, :2], returns[:2], rtol=1e-6)
