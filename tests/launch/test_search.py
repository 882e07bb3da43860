"""Sweeps in which Optuna chooses the values."""

import json

import pytest
import yaml

from tests.selection import slow_but
from tests.sweep_table import rows

# Hydra's sweeper needs an old Optuna, which uses deprecated functions of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:.*declarative_base:DeprecationWarning")

SEARCH = "-m", "hydra/sweeper=optuna", "hydra.sweeper.sampler.seed=0"
CHEAP = "model=linear", "search=learning_rate", "batch_size=20", "solver=cg"
SPACE = "damping.value=tag(log, interval(1e-3,1))", "curvature=choice(identity,gauss_newton)"


@pytest.mark.parametrize("launcher", slow_but([], ["basic", "parallel"]))
def test_intervals_and_choices_are_searched(launcher, train):
    options = "hydra.sweeper.n_trials=3", f"hydra/launcher={launcher}", "hydra.sweep.dir=sweep"
    done = train(*SEARCH, *SPACE, *CHEAP, "max_steps=2", "validation=0.1", *options)
    assert done.code == 0, done.err
    table, folder = rows(done.out), done.folder / "sweep"
    summaries = [json.loads((folder / str(k) / "summary.json").read_text()) for k in range(3)]
    assert [row["curvature"] for row in table] == [summary["curvature"] for summary in summaries]
    chosen = [float(row["damping.value"]) for row in table]
    assert len(set(chosen)) == 3
    assert all(1e-3 <= value <= 1 for value in chosen)
    # The best job is the one with the lowest loss of the validation part.
    best = min(range(3), key=lambda k: summaries[k]["validation_loss"])
    found = yaml.safe_load((folder / "optimization_results.yaml").read_text())
    assert found["best_value"] == pytest.approx(summaries[best]["validation_loss"])
    assert found["best_params"]["curvature"] == table[best]["curvature"]


def test_a_job_that_fails_ends_no_other(train):
    ran = []

    def task(job):
        ran.append(job.config["damping"]["value"])
        if len(ran) == 1:
            raise RuntimeError("out of memory")
        return {"status": "finished", "exit_code": 0, "train_loss": 1.0}

    done = train(*SEARCH, SPACE[0], *CHEAP, "hydra.sweeper.n_trials=3", task=task)
    assert (done.code, len(ran)) == (1, 3)
    assert [row["status"] for row in rows(done.out)] == ["failed", "finished", "finished"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("damping.value=interval(-1,1)", ["damping.value=-1.0`: `ConstantDamping", "got -1"]),
        ("damping.valu=interval(1,2)", ["did you mean `damping.value`?"]),
        ("curvature=choice(identity,nope)", ["`curvature=nope`", "gauss_newton"]),
        ("samples=interval(1,3) curvature=identity", ["`samples=interval(1,3)`", "is not used"]),
        ("seed=0 hydra.sweeper.trials=3", ["`hydra.sweeper.trials`"]),
        ("seed=interval(0,9) vectorised=true", ["Leave out `hydra/sweeper=optuna`"]),
    ],
)
def test_a_space_is_checked_before_the_first_job(override, words, train):
    done = train(*SEARCH, *CHEAP, *override.split())
    assert (done.code, done.made) == (2, [])
    (line,) = done.err.splitlines()
    assert all(word in line for word in words), line


def test_an_interval_needs_a_sweeper_that_searches(train):
    done = train("-m", "damping.value=interval(1e-3,1)")
    assert (done.code, done.made) == (2, [])
    assert "Add `hydra/sweeper=optuna`" in done.err
