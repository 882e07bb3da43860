"""The comparison's own arithmetic, and that its curves are those of training runs."""

import dataclasses
import json

import equinox as eqx
import jax
import numpy as np
import pytest

from data import digits
from experiments.autoencoder import curves as module, deep
from experiments.autoencoder.__main__ import _write
from experiments.autoencoder.curves import Network, Point, initial_model, run
from experiments.autoencoder.figure import draw
from experiments.autoencoder.levels import Spread, best, ratio, reached, spread
from experiments.autoencoder.methods import METHODS, Method, adam, hessian_free, kfac, rate
from experiments.autoencoder.report import levels_table, tuning_table, verdict
from experiments.autoencoder.store import kept
from experiments.autoencoder.tuning import Tried, behind, label, tune
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


def built(experiment):
    """What `python train.py experiment=...` trains, on a smaller dataset."""
    register_resolvers("launch")
    overrides = [f"experiment={experiment}", "dataset=digits", "seed=3"]
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
    found = {"K-FAC": [SOON], "Adam": [LATE], "Muon": [SOON], "SOAP": [NEVER]}
    text = levels_table(found)
    assert "| 90 | Adam | 200 (200 to 200) | 4 (4 to 4) | 2 (2 to 2) | 0.5 (0.5 to 0.5) |" in text
    assert "| 90 | SOAP | – | – | – | – |" in text
    aims = verdict(found | {"Shampoo": [curve(200, 90, 80, 75, 69)]})
    assert "0.5 of Adam's: 90: 0.50, met; 80: 0.67, missed" in aims
    assert "1 of SOAP's: 90: a run never got there" in aims
    assert "70: 0.75, met" in aims
    assert "| x 0.1 | – | – | – | 1000 | nan after 1 |" in tuning_table([Tried({"x": 0.1}, NEVER)])


def test_the_page_has_a_table_per_method_that_was_tuned(tmp_path):
    tried = [Tried({"x": 0.1}, SOON), Tried({"x": 0.2}, NEVER)]
    tuned = {name: ({"x": 0.1}, tried if name == "Adam" else tried[:1]) for name in METHODS}
    _write(tmp_path, {name: [SOON] for name in METHODS}, tuned)
    page = (tmp_path / "autoencoder.md").read_text()
    assert "### Adam" in page
    assert "### Hessian-free" not in page
    assert json.loads((tmp_path / "autoencoder.json").read_text())["settings"]["Adam"] == {"x": 0.1}


def test_a_method_is_tuned_one_choice_after_the_other():
    """Time by setting: b helps, c does not, and a falling rate ends before it gets to the level."""
    steps = {"a 1": 40, "a 2": 36, "a 2, b 1": 20, "a 2, b 1, c 1": 30}
    asked = []

    def run(setting, late):
        asked.append(label(setting))
        if "until" in setting:
            return [Point(0, 0, 0, 200.0), Point(1, 1, 1, 85.0)]
        taken = steps[label(setting)]
        points = [Point(0, 0, 0, 200.0), Point(taken, taken, float(taken), 69.0)]
        assert late(points[:1]) is False
        return points

    choices = [{"b": 1}, {"c": 1}]
    grid = [{"a": 1}, {"a": 2}]
    best_setting, tried = tune(Method(adam, grid, choices, 1, 1, scheduled=False), run)
    assert best_setting == {"a": 2, "b": 1}
    assert [label(each.setting) for each in tried] == asked == list(steps)
    rates = [{"learning_rate": 0.5}]
    steps["learning_rate 0.5"] = 40
    tune(Method(adam, rates, [], 1, 1, scheduled=True), run)
    assert asked[-1] == "learning_rate 1.0, until 30"


def test_a_run_is_late_where_the_best_one_had_got_to_a_level_long_before():
    late = behind(SOON)  # 90 after 1 second, 80 after 2, 70 after 3
    assert not late(curve(200, 95))
    assert late(curve(200, 95, 91))
    assert not late(curve(200, 95, 90))
    assert late(curve(200, 89, 81, 81))
    assert not behind(NEVER)(curve(200, 100, 100))


def test_a_scheduled_rate_grows_and_falls():
    schedule = rate(2.0, 250)
    np.testing.assert_allclose([schedule(step) for step in (0, 25, 50, 150, 250)], [0, 1, 2, 1, 0])


@pytest.mark.parametrize(
    ("experiment", "optimiser"), [("autoencoder", hessian_free()), ("autoencoder_kfac", kfac())]
)
def test_method_and_weights_are_those_of_the_command_line(experiment, optimiser):
    run_of_command_line = built(experiment)
    assert module.MODEL_STREAM == MODEL_STREAM
    assert eqx.tree_equal(run_of_command_line.optimiser, optimiser)
    assert eqx.tree_equal(run_of_command_line.model, initial_model(digits(), 3))


def test_every_setting_makes_an_optimiser():
    for method in METHODS.values():
        for setting in method.grid:
            for choice in [{}, *method.choices]:
                assert method.make(**setting | choice).objective == hessian_free().objective


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")  # optax multiplies floats by its step counts
def test_a_curve_is_that_of_a_training_run(small, tmp_path):
    optimiser = adam(3e-3)
    settings = Settings(seed=3, batch_size=module.BATCH_SIZE, epochs=2)
    summary = train(
        dataclasses.replace(built("autoencoder"), optimiser=optimiser, settings=settings), tmp_path
    )
    found, model = run(optimiser, small, 3, steps=4, every=2, until=0)
    assert [point.step for point in found] == [0, 2, 4]
    assert found[0].seconds == 0 < found[1].seconds < found[2].seconds
    np.testing.assert_allclose(found[-1].loss, summary["train_loss"], rtol=1e-5)
    again, _ = run(optimiser, small, 3, steps=4, every=2, until=found[1].loss)
    assert [point.loss for point in again] == [point.loss for point in found[:2]]
    draw({"Adam": [found]}, {"Adam": model}, small, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_the_deeper_network_has_a_page_of_its_own(small, monkeypatch, tmp_path):
    shortened = {"BATCH_SIZE": 500, "EPOCHS": 2, "TUNING_EPOCHS": 1, "SHOWN": (1, 2, 3)}
    grids = {name: grid[:2] for name, grid in deep.GRIDS.items()}
    network = Network((8, 4), jax.nn.relu)
    for name, value in {**shortened, "GRIDS": grids, "DEEP": network}.items():
        monkeypatch.setattr(deep, name, value)
    deep.compare(small, tmp_path, tmp_path / "runs")
    found = json.loads((tmp_path / "autoencoder_deep.json").read_text())
    assert [len(curve) for curve in found["curves"].values()] == [3, 3]
    assert "| 2 |" in (tmp_path / "autoencoder_deep.md").read_text()


def test_a_run_that_is_kept_is_not_made_again(tmp_path):
    model = initial_model(digits(), 3)
    made = []

    def make(curve):
        made.append(curve)
        return curve, model

    for _ in range(2):
        for number, expected in {0.001: SOON, 0.003: LATE}.items():
            file = tmp_path / "runs" / f"adam_{number}_1"
            curve, read = kept(file, lambda curve=expected: make(curve), like=model)
            assert curve == expected
            assert eqx.tree_equal(read, model)
    assert made == [SOON, LATE]
