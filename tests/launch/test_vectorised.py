"""`vectorised=true` trains the jobs of a sweep as one program."""

import json
import math

import numpy as np
import pytest
import yaml

from tests.sweep_table import rows

QUICK = "model=linear", "optimiser=sgd", "batch_size=20", "max_steps=3"
NATURAL = "model=linear", "solver=cg", "search=learning_rate", "batch_size=20", "max_steps=2"
SWEEP = "hydra.sweep.dir=sweep"


def summaries(done, jobs):
    return [json.loads((done.folder / "sweep" / job / "summary.json").read_text()) for job in jobs]


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_seeds_share_a_program_and_each_is_an_ordinary_run(train):
    done = train("-m", *QUICK, "seed=range(0,3)", "vectorised=true", SWEEP)
    assert done.code == 0, done.err
    assert [row["seed"] for row in rows(done.out)] == ["0", "1", "2"]
    assert {row["status"] for row in rows(done.out)} == {"finished"}
    assert "3 of 3" in done.out  # the table over seeds
    assert (done.folder / "sweep" / "report" / "report.html").exists()
    assert [found["vectorised"] for found in summaries(done, "012")] == [3, 3, 3]
    alone = train(*QUICK, "seed=2", "hydra.run.dir=alone")
    one, other = done.folder / "sweep" / "2", alone.folder / "alone"
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
    np.testing.assert_allclose(losses(one), losses(other), rtol=1e-5)
    configs = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in (one, other)]
    assert [config.pop("vectorised") for config in configs] == [True, False]
    assert configs[0] == configs[1]

    again = train("resume=sweep/1", "max_steps=5")
    assert again.code == 0, again.err
    assert [summaries(done, "012")[job]["steps"] for job in range(3)] == [3, 5, 3]


@pytest.mark.slow
def test_numbers_share_a_program_and_other_values_need_another(train):
    done = train(
        "-m", *NATURAL, "seed=0,1", "damping.value=1.0,0.1", "samples=1,2", "vectorised=true", SWEEP
    )
    assert done.code == 0, done.err
    found = summaries(done, "01234567")
    assert [summary["vectorised"] for summary in found] == [4] * 8
    lines = [line for line in done.out.splitlines() if line.startswith("Program ")]
    assert [line.split(":")[0] for line in lines] == [
        "Program 1 of 2, jobs #0 #2 #4 #6",
        "Program 2 of 2, jobs #1 #3 #5 #7",
    ]
    dampings = [
        json.loads((done.folder / "sweep" / job / "metrics.jsonl").read_text().splitlines()[0])
        for job in "01234567"
    ]
    assert [record["damping"] for record in dampings] == pytest.approx([1, 1, 0.1, 0.1] * 2)


@pytest.mark.slow
def test_a_job_with_a_program_of_its_own_is_an_ordinary_run(train):
    done = train("-m", *QUICK, "seed=0,1", "vectorised=true,false", SWEEP)
    assert done.code == 0, done.err
    assert [found.get("vectorised") for found in summaries(done, "0123")] == [2, None, 2, None]
    one = train("-q", "-m", *QUICK, "vectorised=true", "hydra.sweep.dir=one")
    assert one.code == 0, one.err
    assert "Program" in done.out
    assert "Program" not in one.out
    assert "vectorised" not in json.loads((one.folder / "one" / "0" / "summary.json").read_text())


@pytest.mark.slow
def test_parts_of_the_data_averages_and_dropout_can_be_vectorised(train):
    parts = "validation=0.1", "train_examples=200", "average=exponential", "model.dropout=0.1"
    done = train("-m", "model=mlp", *QUICK[1:], *parts, "seed=0,1", "vectorised=true", SWEEP)
    assert done.code == 0, done.err
    found = summaries(done, "01")
    assert [summary["vectorised"] for summary in found] == [2, 2]
    assert all(math.isfinite(summary["validation_loss"]) for summary in found)


@pytest.mark.slow
def test_environments_can_be_vectorised(train):
    given = "experiment=cartpole", "max_steps=1", "seed=0,1", "vectorised=true", SWEEP
    done = train("-m", *given)
    assert done.code == 0, done.err
    found = summaries(done, "01")
    assert [summary["vectorised"] for summary in found] == [2, 2]
    assert found[0]["test"]["mean_return"] != found[1]["test"]["mean_return"]


@pytest.mark.slow
def test_learning_rates_of_optax_are_programs_of_their_own(train):
    rates = "optimiser.transformation.learning_rate=0.1,0.2"
    done = train("-m", *QUICK, "seed=0,1", rates, "vectorised=true", SWEEP)
    assert done.code == 0, done.err
    assert [found["vectorised"] for found in summaries(done, "0123")] == [2] * 4


def test_a_program_that_fails_ends_no_other(train, monkeypatch):
    import launch.runs

    def broken(runs, folders):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(launch.runs, "train_together", broken)
    done = train("-m", *QUICK, "seed=0,1", "batch_size=20,30", "vectorised=true", SWEEP)
    assert done.code == 1
    assert done.err.count("RuntimeError: out of memory") == 2
    assert [found["status"] for found in summaries(done, "0123")] == ["failed"] * 4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["vectorised=true"], "Add `-m` and several values of a key, such as `seed='range(0,16)'`"),
        (["-m", "seed=0,1", "vectorised=5"], "`vectorised` must be true or false, got 5"),
        (["-m", "seed=0,1", "vectorised=true", "devices=2"], "Leave out `devices=2`"),
        (["-m", "seed=0,1", "vectorised=true", "micro_batch=auto"], "Give a number, or null"),
        (
            ["-m", "seed=0,1", "vectorised=true", "hydra/launcher=parallel"],
            "Leave out `hydra/launcher=parallel`",
        ),
        (["-m", "seed=0,-1", "vectorised=true"], "`seed` must be an integer from 0"),
    ],
)
def test_jobs_that_cannot_share_a_program_are_refused(train, arguments, sentence):
    done = train(*arguments)
    assert (done.code, done.made) == (2, [])
    assert sentence in done.err
    assert done.err.count("\n") == 1


def test_a_resumed_run_cannot_be_vectorised(train):
    assert train(*QUICK, "hydra.run.dir=run").code == 0
    done = train("resume=run", "vectorised=true")
    assert done.code == 2
    assert "`vectorised=true` cannot be changed" in done.err
