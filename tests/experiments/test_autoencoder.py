"""The comparison's own methods and pages, and that its curves are those of training runs."""

import dataclasses
import functools
import json

import equinox as eqx
import jax
import numpy as np
import pytest

import models
from data import digits
from experiments.autoencoder import deep, problem
from experiments.autoencoder.__main__ import _write
from experiments.autoencoder.figure import draw
from experiments.autoencoder.methods import METHODS, hessian_free, kfac
from experiments.autoencoder.report import soonest_table, verdict
from experiments.comparison import rivals
from experiments.comparison.curves import run
from experiments.comparison.tuning import Tried
from launch.command import parse
from launch.composer import Composer
from launch.folders import register_resolvers
from launch.job import planned_job
from launch.runs import build
from tests.experiments.curves import LATE, NEVER, SOON, curve
from training import Settings, train


def built(experiment):
    """What `python train.py experiment=...` trains, on a smaller dataset."""
    register_resolvers("launch")
    overrides = [f"experiment={experiment}", "dataset=digits", "seed=3"]
    return build(planned_job(Composer(parse([])).compose(overrides), multirun=False))


BATCH_SIZE = 500


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(problem, "BATCH_SIZE", BATCH_SIZE)
    return problem.small(digits())


def test_an_aim_is_met_by_the_median_of_the_seeds():
    found = {"K-FAC": [SOON], "Adam": [LATE], "Muon": [SOON], "SOAP": [NEVER]}
    aims = verdict(found | {"Shampoo": [curve(200, 90, 80, 75, 69)]})
    assert "0.5 of Adam's: 90: 0.50, met; 80: 0.67, missed" in aims
    assert "1 of SOAP's: 90: a run never got there" in aims
    assert "70: 0.75, met" in aims


def test_the_soonest_setting_of_each_level():
    tried = [Tried({"x": 1}, SOON), Tried({"x": 2}, curve(200, 95, 80)), Tried({"x": 3}, NEVER)]
    assert "| Adam | 1.0, x 1 | 2.0, x 1 | 3.0, x 1 |" in soonest_table({"Adam": tried})
    assert "| Adam | – | – | – |" in soonest_table({"Adam": tried[2:]})


def test_the_page_has_a_table_per_method_that_was_tuned(tmp_path):
    tried = [Tried({"x": 0.1}, SOON), Tried({"x": 0.2}, NEVER)]
    tuned = {name: ({"x": 0.1}, tried if name == "Adam" else tried[:1]) for name in METHODS}
    _write(tmp_path, {name: [SOON] for name in METHODS}, tuned)
    page = (tmp_path / "autoencoder.md").read_text()
    assert "### Adam" in page
    assert "### Hessian-free" not in page
    assert json.loads((tmp_path / "autoencoder.json").read_text())["settings"]["Adam"] == {"x": 0.1}


@pytest.mark.parametrize(
    ("experiment", "optimiser"), [("autoencoder", hessian_free()), ("autoencoder_kfac", kfac())]
)
def test_method_and_weights_are_those_of_the_command_line(experiment, optimiser):
    run_of_command_line = built(experiment)
    assert eqx.tree_equal(run_of_command_line.optimiser, optimiser)
    assert eqx.tree_equal(run_of_command_line.model, problem.small(digits()).initial_model(3))


def test_every_setting_makes_an_optimiser():
    for method in METHODS.values():
        for setting in method.grid:
            for choice in [{}, *method.choices]:
                assert method.make(**setting | choice).objective == hessian_free().objective


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")  # optax multiplies floats by its step counts
def test_a_curve_is_that_of_a_training_run(small, tmp_path):
    optimiser = rivals.adam(problem.OBJECTIVE, 3e-3)
    settings = Settings(seed=3, batch_size=BATCH_SIZE, epochs=2)
    summary = train(
        dataclasses.replace(built("autoencoder"), optimiser=optimiser, settings=settings), tmp_path
    )
    found, model = run(optimiser, small, 3, steps=4, every=2)
    assert [point.step for point in found] == [0, 2, 4]
    assert found[0].seconds == 0 < found[1].seconds < found[2].seconds
    np.testing.assert_allclose(found[-1].loss, summary["train_loss"], rtol=1e-5)
    again, _ = run(optimiser, small, 3, steps=4, every=2, ended=lambda curve: len(curve) == 2)
    assert [point.loss for point in again] == [point.loss for point in found[:2]]
    draw({"Adam": [found]}, {"Adam": model}, small.dataset, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_the_deeper_network_has_a_page_of_its_own(monkeypatch, tmp_path):
    grids = {name: grid[:2] for name, grid in deep.GRIDS.items()}
    shortened = {"EPOCHS": 2, "TUNING_EPOCHS": 1, "SHOWN": (1, 2, 3), "GRIDS": grids}
    for name, value in shortened.items():
        monkeypatch.setattr(deep, name, value)
    network = functools.partial(models.Autoencoder, sizes=(8, 4), activation=jax.nn.relu)
    monkeypatch.setattr(deep, "BATCH_SIZE", BATCH_SIZE)
    monkeypatch.setattr(problem, "BATCH_SIZE", BATCH_SIZE)
    monkeypatch.setattr(problem, "DEEP", network)
    deep.compare(digits(), tmp_path, tmp_path / "runs")
    found = json.loads((tmp_path / "autoencoder_deep.json").read_text())
    assert [len(curve) for curve in found["curves"].values()] == [3, 3]
    assert "| 2 |" in (tmp_path / "autoencoder_deep.md").read_text()
