"""The verdicts, tables, figures and page of the experiment `autoencoder`."""

import functools
import json

import equinox as eqx
import jax
import numpy as np

import data
import models
from experiments.autoencoder import deep, figure
from experiments.autoencoder.__main__ import publish
from experiments.autoencoder.methods import METHODS
from experiments.autoencoder.report import soonest_table, verdict
from experiments.harness.tuning import Tried
from tests.experiments.curves import LATE, NEVER, SOON, curve


def test_an_aim_is_judged_by_the_median_of_the_seeds():
    found = {"K-FAC": [SOON], "Adam": [LATE], "Muon": [SOON], "SOAP": [NEVER]}
    aims = verdict(found | {"Shampoo": [curve(200, 90, 80, 75, 69)]})
    assert "0.5 of Adam's: 90: 0.50, met; 80: 0.67, missed" in aims
    assert "1 of SOAP's: 90: a run of SOAP did not reach it" in aims
    assert "70: 0.75, met" in aims


def test_the_soonest_setting_of_each_level():
    losses = {1: SOON, 2: curve(200, 95, 80), 3: NEVER}
    tried = [Tried({"x": number}, [losses[number]]) for number in losses]
    assert "| Adam | 1.0, x 1 | 2.0, x 1 | 3.0, x 1 |" in soonest_table({"Adam": tried})
    assert "| Adam | – | – | – |" in soonest_table({"Adam": tried[2:]})


def test_the_page_has_a_table_per_method_that_was_tuned(tmp_path):
    names = [method.name for method in METHODS]
    tried = [Tried({"x": 0.1}, [SOON]), Tried({"x": 0.2}, [NEVER])]
    tuned = {name: ({"x": 0.1}, tried if name == "Adam" else []) for name in names}
    publish(tmp_path, {name: [SOON] for name in names}, tuned)
    page = (tmp_path / "autoencoder.md").read_text()
    assert "### Adam" in page
    assert "### Hessian-free" not in page
    assert json.loads((tmp_path / "autoencoder.json").read_text())["settings"]["Adam"] == {"x": 0.1}


def test_a_figure_of_losses_and_reconstructions(tmp_path, monkeypatch):
    digits = data.digits()
    monkeypatch.setattr(data, "mnist10k", lambda: digits)
    network = functools.partial(models.Autoencoder, sizes=(8, 4), activation=jax.nn.relu)
    model = network(digits.input_shape, 64, key=jax.random.key(0))
    assert isinstance(model, eqx.Module)
    figure.draw({"Adam": [SOON]}, {"Adam": model}, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_losses_by_epoch():
    long = curve(*np.linspace(200, 60, 45))
    table = deep.by_epoch({"K-FAC": long, "Adam": long[:3]})
    assert "| 1 | 200.0 | 0 | 200.0 | 0 |" in table
    assert "| 45 | 60.0 | 44 | – | – |" in table
    assert "| 45 | – | – | 60.0 | 44 |" in deep.by_epoch({"K-FAC": long[:3], "Adam": long})
