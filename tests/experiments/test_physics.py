"""The arithmetic, tables and figures of the experiment `physics`."""

from pathlib import Path
from typing import Any, cast

import jax
import pytest

import models
from experiments.harness.curves import Point
from experiments.physics import __main__ as program, figure, layers
from experiments.physics.__main__ import section
from experiments.physics.methods import gauss_newton
from experiments.physics.numbers import median_cell, spread_cell
from experiments.physics.published import PUBLISHED, published_table
from tests.experiments.curves import curve


def test_a_level_that_was_not_reached_counts_as_the_largest_number():
    assert median_cell([3, None, 1]) == "3"
    assert spread_cell([3, None, 1]) == "3 (1 to –)"
    assert spread_cell([None, 1, None]) == "– (1 to –)"
    assert spread_cell([None, None]) == "–"


def of_seed(seed, error):
    steps = {"steps to 0.0001": 30 + seed, "steps to 1e-06": None}
    return {"seed": seed, **steps, "l2_error": error}


FOUND = {
    name: {"gauss_newton": [of_seed(0, 2e-6), of_seed(1, 3e-6)], "adam(0.1)": [of_seed(0, 0.1)]}
    for name in PUBLISHED
}


def test_a_section_has_medians_and_the_errors_of_all_seeds():
    text = section("heat", FOUND["heat"])
    assert "| gauss_newton | 30 (30 to 31) | – | 2e-06 (2e-06 to 3e-06) |" in text
    assert "gauss_newton, final error of seeds 0, 1: 2e-06, 3e-06." in text
    assert "(physics_heat.png)" in text


def test_published_numbers_are_shown_beside_ours():
    text = published_table(FOUND)
    assert "| heat, gauss_newton, here | 30 | – | 2e-06 |" in text
    assert "| heat, energy natural gradient, published | 107 |  | 3.1e-8 |" in text
    assert "adam" not in text


def test_the_row_of_a_net_of_several_layers(monkeypatch):
    errors = curve(1e-1, 1e-5, 2e-7, 3e-7)
    monkeypatch.setattr(layers, "error_curve", lambda run: errors)
    assert layers.row(4, Path()) == ["4", "1", "1", "2", "2.0e-07", "3.0e-07"]


@pytest.mark.slow
@pytest.mark.parametrize(("problem", "inputs"), [("heat", 2), ("poisson5d", 5)])
def test_the_figure_has_errors_and_the_solution(tmp_path, problem, inputs, x64):
    model = models.MLP((inputs,), 1, width=4, depth=1, key=jax.random.key(0))
    curves = {"gauss_newton": [curve(1e-1, 1e-3)], "adam": [curve(1e-1, 1e-2)]}
    figure.draw(tmp_path / "figure.png", problem, curves, model)
    assert (tmp_path / "figure.png").stat().st_size > 10_000


class FakeRuns:
    """Replaces `Runs`: makes no runs, and keeps the requests in `asked`."""

    def __init__(self):
        self.asked = []

    def run(self, method, setting, seed):
        self.asked.append((method, setting, seed))
        return method, setting, seed


def test_adam_gets_as_many_steps_as_fit_in_the_time_of_gauss_newton(monkeypatch):
    """A step of Gauss-Newton takes 2 seconds, and one of Adam 0.5."""

    def error_curve(run):
        method, _, _ = run
        seconds = (0.5 if method.name == "adam" else 2.0) * method.steps
        return [Point(method.steps, seconds, seconds, 0.1)]

    losses = {0.003: 3.0, 0.01: None, 0.03: 1.0, 0.1: 2.0, 0.3: 4.0}
    monkeypatch.setattr(program, "error_curve", error_curve)
    monkeypatch.setattr(
        program, "summary", lambda run: {"train_loss": losses[run[1]["learning_rate"]]}
    )
    runs = FakeRuns()
    found: Any = program.measure(cast(Any, runs), "heat")
    assert list(found) == ["gauss_newton", "gauss_newton, fresh points", "adam(0.03)"]
    for method, _, _ in found["adam(0.03)"]:
        assert method.steps == 4 * gauss_newton("heat").steps
    of_adam = [(method, seed) for method, _, seed in runs.asked if method.name == "adam"]
    probe, _ = of_adam[0]
    assert probe.steps == probe.every == program.PROBE_STEPS
    assert {seed for _, seed in of_adam[: 1 + len(losses)]} == {100}
