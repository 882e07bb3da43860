"""The arithmetic, verdict and figure of the experiment `policy_gradient`."""

import math

import numpy as np

from experiments.policy_gradient import best, draw, reached, row, verdict


def test_the_target_is_reached_after_the_steps_that_were_trained_on():
    assert reached(np.array([20.0, 474.9, 475.0, 300.0])) == 2 * 5000
    assert reached(np.array([20.0, 30.0])) == math.inf


def test_the_best_setting_reaches_the_target_soonest_or_ends_highest():
    never, late, soon = [100.0] * 6, [100.0] * 4 + [480.0] * 2, [100.0] * 2 + [480.0] * 4
    assert best(dict(enumerate(np.array([[never], [late], [soon]])))) == 2
    assert best(dict(enumerate(np.array([[never], [[110.0] * 6]])))) == 1


def test_the_verdict_is_on_the_tuned_methods():
    def rows(*first):
        return [
            row(str(n), {}, np.array([[100.0] * updates + [480.0]] * 2))
            for n, updates in enumerate(first)
        ]

    assert "1 : 2 = 0.70" in verdict(rows(20, 7, 10, 30))
    assert "both tuned: met. By the medians of the seeds the share is 0.70." in verdict(
        rows(20, 7, 10, 30)
    )
    assert "both tuned: missed." in verdict(rows(1, 8, 10, 30))


def test_the_figure_has_a_band_per_method(tmp_path):
    returns = np.random.default_rng(0).uniform(0, 500, (3, 5))
    draw({"one": returns, "other": returns}, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
