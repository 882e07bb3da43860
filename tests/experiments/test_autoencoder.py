"""The comparison's own arithmetic, and that its curves are those of training runs."""

import dataclasses

import equinox as eqx
import numpy as np
import pytest

from data import digits
from experiments.autoencoder import curves as module
from experiments.autoencoder.curves import Point, initial_model, run
from experiments.autoencoder.figure import draw
from experiments.autoencoder.levels import Spread, best, ratio, reached, spread
from experiments.autoencoder.methods import adam, hessian_free
from experiments.autoencoder.report import levels_table, tuning_table, verdict
from experiments.autoencoder.store import kept
from launch.command import parse
from launch.composer import Composer
from launch.folders import register_resolvers
from launch.job import planned_job
from launch.runs import MODEL_STREAM, build
from training import Settings, train


def curve(*losses, every=1):
    return [
        Point(every * number, 2.0 * number, 1.0 * number, loss)
        for number, loss in enumerate(losses)
    ]


SOON, LATE, NEVER = curve(200, 89, 80, 69), curve(200, 100, 90, 70, every=100), curve(200, np.nan)


@pytest.fixture
def built():
    """What `python train.py experiment=autoencoder` trains, on a smaller dataset."""
    register_resolvers("launch")
    overrides = ["experiment=autoencoder", "dataset=digits", "seed=3"]
    return build(planned_job(Composer(parse([])).compose(overrides), multirun=False))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(module, "BATCH_SIZE", 500)
    return digits()


def test_a_level_is_reached_at_the_first_loss_that_is_no_more():
    assert reached(LATE, 90) == Point(200, 4.0, 2.0, 90)
    assert reached(NEVER, 90) is None


def test_a_spread_is_of_all_seeds_or_of_none():
    points = [reached(seed, 80) for seed in (SOON, LATE, LATE)]
    assert spread(points, "step") == Spread(300, 2, 300)
    assert spread([*points, None], "step") is None


def test_a_ratio_is_of_the_same_seed():
    ours = [reached(SOON, 90), reached(SOON, 70)]
    theirs = [reached(LATE, 90), reached(LATE, 70)]
    assert ratio(ours, theirs, "step") == Spread((1 / 200 + 3 / 300) / 2, 1 / 200, 3 / 300)
    assert ratio(ours, [theirs[0], None], "step") is None


def test_the_best_rate_is_the_soonest_and_one_that_diverged_is_the_last():
    assert best([NEVER, LATE, SOON], 90) == 2
    assert best([NEVER, curve(200, 150), curve(200, 120)], 90) == 2


def test_the_tables_say_what_was_found():
    found = {"ours": [SOON, SOON], "Adam": [LATE, LATE]}
    assert "| 90 | steps | 1 (1 to 1) | 200 (200 to 200) | 0.005 (" in levels_table(found)
    assert "1/200 of Adam's (as was aimed at)" in verdict(found)
    assert "never" in verdict({"ours": [SOON], "Adam": [NEVER]})
    assert "| 0.1 | – | nan after 1 |" in tuning_table({0.1: NEVER})


def test_method_and_weights_are_those_of_the_command_line(built):
    assert module.MODEL_STREAM == MODEL_STREAM
    assert eqx.tree_equal(built.optimiser, hessian_free())
    assert eqx.tree_equal(built.model, initial_model(digits(), 3))


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")  # optax multiplies floats by its step counts
def test_a_curve_is_that_of_a_training_run(small, built, tmp_path):
    optimiser = adam(3e-3)
    settings = Settings(seed=3, batch_size=module.BATCH_SIZE, epochs=2)
    summary = train(dataclasses.replace(built, optimiser=optimiser, settings=settings), tmp_path)
    found, model = run(optimiser, small, 3, steps=4, every=2, until=0)
    assert [point.step for point in found] == [0, 2, 4]
    assert found[0].seconds == 0 < found[1].seconds < found[2].seconds
    np.testing.assert_allclose(found[-1].loss, summary["train_loss"], rtol=1e-5)
    again, _ = run(optimiser, small, 3, steps=4, every=2, until=found[1].loss)
    assert [point.loss for point in again] == [point.loss for point in found[:2]]
    draw({"Adam": [found]}, {"Adam": model}, small, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_a_run_that_is_kept_is_not_made_again(tmp_path):
    model = initial_model(digits(), 3)
    made = []

    def make(curve):
        made.append(curve)
        return curve, model

    for _ in range(2):
        for rate, expected in {0.001: SOON, 0.003: LATE}.items():
            file = tmp_path / "runs" / f"adam_{rate}_1"
            curve, read = kept(file, lambda curve=expected: make(curve), like=model)
            assert curve == expected
            assert eqx.tree_equal(read, model)
    assert made == [SOON, LATE]
