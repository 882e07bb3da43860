"""The comparison's own arithmetic, the control's blow-up, and a report from tiny runs."""

import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.timing import Ratio
from experiments.tutorial_mnist import __main__ as program, rank_one, runs
from experiments.tutorial_mnist.methods import IN_SMALL, Method, adam
from experiments.tutorial_mnist.report import diverged, gain, results_table, row, steps_to
from experiments.tutorial_mnist.study import Outcome, best, study
from experiments.tutorial_mnist.verdicts import all_of
from launch.runs import MODEL_STREAM

TASK = runs.Task(batch_size=128, epochs=2, every=4)


def run(losses, accuracy=0.9, rejected=0):
    losses = np.asarray(losses)
    accuracies = np.full(len(losses), accuracy)
    each_step = np.zeros(4 * len(losses))
    return runs.Run(losses, accuracies, losses, accuracies, each_step, 0.0, rejected, None)


def outcome(name, found, cost=1.0):
    setting = (0.5,)
    return Outcome(
        name, TASK, ("λ",), setting, {setting: [0.1]}, found, 2.0, Ratio(cost, cost, cost)
    )


def test_weights_are_drawn_as_by_the_command_line():
    assert runs.MODEL_STREAM == MODEL_STREAM


def test_the_best_setting_has_the_least_mean_and_is_finite():
    assert best({(1.0,): [0.2, 0.4], (2.0,): [0.1, 0.4], (3.0,): [0.0, math.nan]}) == (2.0,)
    assert best({(1.0,): []}) == (1.0,)


def test_steps_are_counted_to_the_first_point_at_the_level():
    assert steps_to(run([0.5, 0.2, 0.1, 0.3]), 0.2, every=4) == 8
    assert steps_to(run([0.5, 0.4]), 0.2, every=4) == math.inf


def test_a_run_diverged_if_it_ends_no_better_than_a_guess():
    assert diverged(run([0.1, math.nan]))
    assert diverged(run([0.1, math.log(10)]))
    assert not diverged(run([2.4, 2.2]))


def test_a_row_has_the_median_of_the_seeds():
    adam = outcome("adam", [run([0.5, 0.3]), run([0.5, 0.2]), run([0.5, 0.1])])
    ours = outcome("exact_fisher", [run([0.1, 0.1]), run([0.3, 0.2]), run([0.5, 0.4])], 3.0)
    found = row(ours, adam)
    assert found["steps"] == [4, 8, None]
    assert found["median steps"] == 8
    assert found["time"] == 3.0
    assert "| exact_fisher | λ = 0.5 | 0.2000 (0.1000 to 0.4000) |" in results_table([found])


def test_the_gain_is_paired():
    adam = outcome("adam", [run([0.1], 0.90), run([0.1], 0.92)])
    ours = outcome("exact_fisher", [run([0.1], 0.91), run([0.1], 0.95)])
    np.testing.assert_allclose(gain(ours, adam), (2.0, 1.0))


def test_targets_are_met_or_missed():
    def study(ours):
        return {
            "adam": outcome("adam", [run([0.5, 0.2]), run([0.4, 0.2])]),
            "adam, averaged": outcome("adam, averaged", [run([0.3, 0.2])]),
            "exact_fisher": outcome("exact_fisher", ours),
            "true_fisher 1": outcome("true_fisher 1", ours, cost=2.5),
        }

    good, bad = [run([0.2, 0.1], 0.95)] * 2, [run([0.5, 9.0], 0.5)] * 2
    assert all_of(study(good), study(good), study(good)).count("**Met.**") == 8
    assert all_of(study(bad), study(bad), study(bad)).count("**Missed.**") == 7  # but for time


def test_control_lengths_are_those_of_a_dense_solve(x64):
    v, g = np.random.default_rng(0).standard_normal((2, 6))
    for damping in (1e-3, 1.0):
        dense = np.linalg.solve(np.outer(v, v) + damping * np.eye(6), g)
        found = rank_one.rank_one_length(jnp.asarray(v), jnp.asarray(g), jnp.asarray(damping))
        np.testing.assert_allclose(found, np.linalg.norm(dense), rtol=1e-9)


@pytest.mark.slow
def test_control_blows_up_without_damping(x64):
    """By drawn labels as 1/λ; by the data's labels up to 1/‖ḡ‖, the longer the less is left."""
    x_key, y_key, key = jax.random.split(jax.random.key(0), 3)
    batch = jax.random.uniform(x_key, (4, 28, 28)), jax.random.randint(y_key, (4,), 0, 10)
    weights = jax.tree.map(lambda leaf: leaf.astype(float), program._start())
    found = rank_one.lengths(weights, batch, key, dampings=(1e-12, 1e-9))
    drawn, data = found.of[rank_one.DRAWN], found.of[rank_one.DATA]
    np.testing.assert_allclose(drawn, [found.outside * 1e12, found.outside * 1e9], rtol=1e-6)
    np.testing.assert_allclose(data, 1 / found.gradient, rtol=1e-6)
    exact = found.of["exact_fisher"]
    np.testing.assert_allclose(exact[0], exact[1], rtol=1e-3)
    updates, _ = rank_one.descent().update({"w": jnp.array([3e-3, 4e-3])}, None)
    np.testing.assert_allclose(updates["w"], [-120, -160])


@pytest.mark.slow
def test_a_report_from_tiny_runs(monkeypatch, tmp_path, standard_promotion):
    key = jax.random.key(0)
    x, y = jax.random.uniform(key, (16, 28, 28)), jnp.arange(16) % 10
    monkeypatch.setattr(runs, "parts", lambda: ((x, y), (x, y)))
    monkeypatch.setattr(program, "parts", runs.parts)
    monkeypatch.setattr(program, "SEEDS", (0, 1))
    monkeypatch.setattr(program, "CONTROL_BATCH", 2)
    # A report asks for the names alone: one method is quickly compiled.
    methods = [Method(method.name, ("rate",), ((0.01,),), adam) for method in IN_SMALL]
    task = runs.Task(batch_size=4, epochs=1, every=2)
    monkeypatch.setattr(program, "SMALL", task)
    found = study(task, methods, (0, 1), (), rounds=1, kept=tmp_path / "kept.pickle")
    monkeypatch.setattr(program, "measured", lambda name, runs: found)
    monkeypatch.setattr(
        sys, "argv", ["tutorial_mnist", "--folder", str(tmp_path), "--runs", str(tmp_path / "runs")]
    )
    program.main()
    results = json.loads((tmp_path / "tutorial_mnist.json").read_text())
    assert [one["method"] for one in results["small"]] == [method.name for method in IN_SMALL]
    text = (tmp_path / "tutorial_mnist.md").read_text()
    figures = ("tutorial_mnist", "tutorial_mnist_rank_one", "tutorial_mnist_histograms")
    for name in figures:
        assert (tmp_path / f"{name}.png").stat().st_size > 0
        assert f"({name}.png)" in text
