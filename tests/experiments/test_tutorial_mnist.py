"""The arithmetic, control and page of the experiment `tutorial_mnist`."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
import models
from experiments.harness.curves import Point
from experiments.harness.tuning import Tried
from experiments.tutorial_mnist import figure, rank_one
from experiments.tutorial_mnist.__main__ import publish
from experiments.tutorial_mnist.histograms import quantities
from experiments.tutorial_mnist.methods import IN_SMALL
from experiments.tutorial_mnist.outcome import Outcome, Run
from experiments.tutorial_mnist.report import diverged, gain, results_table, row, steps_to
from experiments.tutorial_mnist.verdicts import all_of


def run(losses, accuracy=0.9, rejected=0, cost=1.0):
    train = [Point(4 * n, n, float(cost * n), loss) for n, loss in enumerate(losses, start=1)]
    accuracies = [point._replace(value=accuracy) for point in train]
    return Run(train, accuracies, [2.0] * train[-1].step, rejected, Path())


def outcome(name, found):
    setting = {"damping": 0.5}
    return Outcome(name, setting, [Tried(setting, [each.train for each in found])], found)


def test_steps_are_counted_to_the_first_point_at_the_level():
    assert steps_to(run([0.5, 0.2, 0.1, 0.3]), 0.2) == 8
    assert steps_to(run([0.5, 0.4]), 0.2) == math.inf


def test_a_run_diverged_if_it_ends_no_better_than_a_guess():
    assert diverged(run([0.1, math.nan]))
    assert diverged(run([0.1, math.log(10)]))
    assert not diverged(run([2.4, 2.2]))


def test_a_row_has_the_median_of_the_seeds():
    adam = outcome("adam", [run([0.5, 0.3]), run([0.5, 0.2]), run([0.5, 0.1])])
    losses = [0.1, 0.1], [0.3, 0.2], [0.5, 0.4]
    found = row(outcome("exact_fisher", [run(each, cost=3.0) for each in losses]), adam)
    assert found["steps"] == [4, 8, None]
    assert found["median steps"] == 8
    assert found["time"] == 3.0
    assert "| exact_fisher | damping 0.5 | 0.2000 (0.1000 to 0.4000) |" in results_table([found])


def test_the_gain_is_taken_per_seed():
    adam = outcome("adam", [run([0.1], 0.90), run([0.1], 0.92)])
    ours = outcome("exact_fisher", [run([0.1], 0.91), run([0.1], 0.95)])
    np.testing.assert_allclose(gain(ours, adam), (2.0, 1.0))


def study(ours):
    return {
        "adam": outcome("adam", [run([0.5, 0.2]), run([0.4, 0.2])]),
        "adam, averaged": outcome("adam, averaged", [run([0.3, 0.2]), run([0.3, 0.2])]),
        "exact_fisher": outcome("exact_fisher", ours),
        "true_fisher 1": outcome("true_fisher 1", ours),
    }


GOOD = study([run([0.2, 0.1], 0.95, cost=2.5)] * 2)


def test_targets_are_met_or_missed():
    bad = study([run([0.5, 9.0], 0.5, cost=2.5)] * 2)
    assert all_of(GOOD, GOOD, GOOD).count("**Met.**") == 8
    assert all_of(bad, bad, bad).count("**Missed.**") == 7  # only the target for the time is met


def test_the_lengths_of_the_control_are_those_of_a_dense_solve(x64):
    v, g = np.random.default_rng(0).standard_normal((2, 6))
    for damping in (1e-3, 1.0):
        dense = np.linalg.solve(np.outer(v, v) + damping * np.eye(6), g)
        found = rank_one.rank_one_length(jnp.asarray(v), jnp.asarray(g), jnp.asarray(damping))
        np.testing.assert_allclose(found, np.linalg.norm(dense), rtol=1e-9)


def images(count):
    x_key, y_key = jax.random.split(jax.random.key(0))
    x = jax.random.uniform(x_key, (count, 28, 28))
    return x, jax.random.randint(y_key, (count,), 0, 10)


def network():
    return models.MLP((28, 28), 10, width=128, depth=1, key=jax.random.key(0))


@pytest.mark.slow
def test_the_steps_of_the_control_blow_up_without_damping(x64):
    """With drawn labels the step has a length in proportion to 1/λ; with the data's, 1/‖ḡ‖."""
    key = jax.random.key(1)
    found = rank_one.lengths(network(), images(4), key, dampings=(1e-12, 1e-9))
    drawn, data = found.of[rank_one.DRAWN], found.of[rank_one.DATA]
    np.testing.assert_allclose(drawn, [found.outside * 1e12, found.outside * 1e9], rtol=1e-6)
    np.testing.assert_allclose(data, 1 / found.gradient, rtol=1e-6)
    exact = found.of["exact_fisher"]
    np.testing.assert_allclose(exact[0], exact[1], rtol=1e-3)
    # A part of the gradient is orthogonal to the rows of drawn labels; there d is g/λ.
    sampled = found.of["true_fisher 1"]
    np.testing.assert_allclose(sampled[0] / sampled[1], 1e3, rtol=1e-3)


def test_the_undamped_step_is_the_gradient_over_its_squared_length(x64):
    descent, gradient = rank_one.descent(), jnp.array([3e-3, 4e-3])
    updates, _ = descent.update(gradient, descent.init(gradient))
    np.testing.assert_allclose(np.asarray(updates), [-120, -160])


def test_the_page_has_all_tables_and_figures(tmp_path):
    damped = len(rank_one.DAMPINGS)
    names = (rank_one.DATA, rank_one.DRAWN, *rank_one.SHOWN)
    lengths = rank_one.Lengths(dict.fromkeys(names, np.ones(damped)), 1.0, 0.5)
    control = {"start": lengths, "end": lengths}
    publish(tmp_path, GOOD, GOOD, GOOD, control)
    results = json.loads((tmp_path / "tutorial_mnist.json").read_text())
    assert [one["method"] for one in results["small"]] == list(GOOD)
    text = (tmp_path / "tutorial_mnist.md").read_text()
    assert "| exact_fisher | damping 0.5 | 0.1000 (0.1000 to 0.1000) |" in text
    figure.curves({"batch 128": GOOD}, tmp_path / "tutorial_mnist.png")
    figure.control(control, {"adam": [2.0, 1.0]}, tmp_path / "tutorial_mnist_rank_one.png")
    flat = {"weights": {"adam": np.ones(3)}}
    figure.histograms({"before": flat}, tmp_path / "tutorial_mnist_histograms.png")
    for name in ("tutorial_mnist", "tutorial_mnist_rank_one", "tutorial_mnist_histograms"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
        assert f"({name}.png)" in text


@pytest.mark.slow
def test_natural_gradients_solve_with_the_tuned_damping():
    batch, model = images(6), network()
    natural = {"empirical_fisher": (cv.EmpiricalFisher(), 1e6)}
    found = quantities({"empirical_fisher": model}, natural, batch, jax.random.key(0))
    direction, gradient = (found[of]["empirical_fisher"] for of in ("natural gradient", "gradient"))
    # With a large λ, (C + λI)⁻¹g is g/λ.
    np.testing.assert_allclose(direction, gradient / 1e6, atol=1e-2 * np.abs(gradient / 1e6).max())


def test_the_names_of_methods_are_different():
    names = [method.name for method in IN_SMALL]
    assert len(set(names)) == len(names)
