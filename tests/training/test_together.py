"""Runs that share a program: each has the numbers, and leaves the folder, of a run by itself."""

import shutil

import equinox as eqx
import jax
import numpy as np
import optax
import optimistix as optx
import pytest

import curvature as cv
from tests.selection import slow_but
from training import train, train_together

LOSS = cv.Supervised(cv.Categorical())


def natural(curvature, solver=None, damping=1.0, search=None, **parts):
    search = optx.LearningRate(0.5) if search is None else search
    return cv.NaturalGradient(LOSS, curvature, solver, damping=damping, search=search, **parts)


OPTIMISERS = {
    "sgd": lambda: cv.FirstOrder(LOSS, optax.sgd(0.1, momentum=0.9)),
    "cg": lambda: natural(cv.SampledFisher(), cv.CG(rtol=1e-3, max_steps=8)),
    "sample_space": lambda: natural(cv.ExactFisher(), cv.SampleSpace()),
    "kfac": lambda: natural(cv.KFAC(cv.SampledFisher(), every=3)),
    "levenberg_marquardt": lambda: natural(
        cv.GaussNewton(),
        damping=cv.LevenbergMarquardt(),
        search=optx.BacktrackingArmijo(),
        momentum=cv.Spring(0.5),
    ),
    "averaged": lambda: cv.Averaged(cv.FirstOrder(LOSS, optax.adam(1e-2)), decay=0.9),
}


@pytest.fixture(params=[False, True], ids=["in_a_loop", "by_vmap"])
def way(request, monkeypatch):
    """Both ways of taking the steps, whatever the device has."""
    monkeypatch.setattr("training.together.by_vmap", lambda: request.param)


@pytest.fixture
def seeds(make_run, make_net):
    """Runs that differ in seed and initial weights."""

    def make(count, **settings):
        net = make_net(10)
        return [
            make_run(
                model=jax.tree.map(lambda w, s=seed: w * (1 + s) if eqx.is_array(w) else w, net),
                **{"seed": seed} | settings,
            )
            for seed in range(count)
        ]

    return make


def folders(path, count):
    return [path / str(number) for number in range(count)]


def numbers(records):
    """All that a run has recorded, but the time and the operations that it cost."""
    aside = "seconds", "gradient_equivalents"
    kept = ({name: record[name] for name in record if name not in aside} for record in records)
    return [[value for value in record.values() if isinstance(value, float)] for record in kept]


def spent(records):
    return [record["gradient_equivalents"] for record in records]


@pytest.mark.parametrize("name", slow_but(("sgd", "kfac"), OPTIMISERS))
def test_every_run_has_the_numbers_that_it_has_alone(
    name, way, seeds, x64, standard_promotion, read_records, weights, tmp_path
):
    runs = seeds(3, optimiser=OPTIMISERS[name](), max_steps=7)
    together = folders(tmp_path / "together", 3)
    summaries = train_together(runs, together)
    for run, folder, summary in zip(runs, together, summaries, strict=True):
        alone = train(run, tmp_path / "alone")
        ours, theirs = (read_records(path) for path in (folder, tmp_path / "alone"))
        shutil.rmtree(tmp_path / "alone")
        np.testing.assert_allclose(numbers(ours), numbers(theirs), rtol=1e-10)
        np.testing.assert_allclose(spent(ours), spent(theirs), rtol=0.05)
        for key in ("train_loss", "test_loss", "steps", "rejected", "seed"):
            assert summary[key] == pytest.approx(alone[key], rel=1e-10)
        assert summary["vectorised"] == 3
        assert "vectorised" not in alone
