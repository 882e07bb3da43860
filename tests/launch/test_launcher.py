"""From the command line to the runs: folders, sweeps, exit codes and resuming."""

import datetime
import json

import jax
import pytest
import yaml

import training.report
from launch import folders
from launch.command import quote
from launch.runs import build, run
from tests.selection import slow_but
from tests.sweep_table import rows
from training.records import Records

# Parts that take little time to trace and compile, with a solver and without one.
SECOND_ORDER = "model=linear", "solver=cg", "search=learning_rate", "batch_size=20"
FIRST_ORDER = "model=linear", "optimiser=sgd", "batch_size=20"

FINISHED = {
    "status": "finished",
    "exit_code": 0,
    "steps": 3,
    "seconds": 1.5,
    "train_loss": 0.25,
    "test_loss": 0.5,
    "test": {"accuracy": 0.875},
}


def test_two_launches_in_the_same_instant_have_their_own_folders(monkeypatch):
    class Stopped(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 31, 12, 0, 0, 1, tz)

    monkeypatch.setattr(folders, "datetime", Stopped)
    ids = [folders.new_launch_id() for _ in range(2)]
    assert ids[0] != ids[1]
    assert all(name.startswith("2026-01-31/12-00-00-000001-") for name in ids)


def test_a_run_writes_its_folder_and_can_be_resumed(train):
    first = train(*SECOND_ORDER, "max_steps=2", "samples=2", "seed=3", "hydra.run.dir=run")
    assert first.code == 0, first.err
    folder = first.folder / "run"
    assert {path.name for path in first.made if path.parent == first.folder} == {"run"}
    assert {path.name for path in folder.iterdir()} == {
        *("checkpoints", "config.yaml", "metrics.jsonl", "model.eqx", "summary.json"),
        *("provenance.json", "train.log"),
    }
    assert first.out.count("650 parameters, 40 rows; ") == 1  # the plan is printed once
    record = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert f" rows; {record['solver']}, " in first.out
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["curvature"] == {"_target_": "curvature.SampledFisher", "samples": 2}
    assert config["choices"]["curvature"] == "true_fisher"
    assert json.loads((folder / "summary.json").read_text())["curvature"] == "true_fisher"

    again = train("hydra.run.dir=run")
    assert again.code == 2

    other = train("resume=run", "samples=3")
    assert other.code == 2
    assert "`samples=3`" in other.err

    more = train("resume=run", "max_steps=3")
    assert more.code == 0, more.err
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["steps"], summary["seed"]) == (3, 3)
    steps = [
        json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [1, 2, 3]
    assert {path.name for path in more.made if path.parent == more.folder} == {"run"}


def test_a_folder_name_may_have_any_characters(train):
    folder = "hydra.run.dir=läufe/größe ώ"
    done = train("model=linear", "optimiser=sgd", "max_steps=1", folder)
    assert done.code == 0, done.err
    more = train("resume=läufe/größe ώ", "max_steps=2")
    assert more.code == 0, more.err
    summary = done.folder / "läufe" / "größe ώ" / "summary.json"
    assert json.loads(summary.read_text(encoding="utf-8"))["steps"] == 2


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("a=ä b", "a='ä b'"),
        ("a=b", "a=b"),
        ("a='ä'", "a='ä'"),
        ("a=[ä,b]", "a=[ä,b]"),
        ("~a", "~a"),
    ],
)
def test_text_beyond_ascii_is_quoted(given, made):
    assert quote(given) == made


def test_a_job_that_slurm_restarts_is_resumed(train, monkeypatch):
    """The folder must be that of the same job, and the configuration must be the same."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    command = [*FIRST_ORDER, "max_steps=2", "micro_batch=auto", "hydra.run.dir=run"]
    assert train(*command).code == 0
    assert train(*command).code == 2  # nothing was restarted
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    other = train(*command, "seed=1")
    assert (other.code, "already holds a run" in other.err) == (2, True)
    again = train(*command)
    assert again.code == 0, again.err
    steps = (again.folder / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(steps) == 2
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert train(*command).code == 2


def test_the_folder_of_another_process_is_not_written_to(train):
    done = train(*FIRST_ORDER, "max_steps=2", "hydra.run.dir=run")
    folder = done.folder / "run"
    (folder / "summary.json").unlink()
    with Records.reopen(folder / "metrics.jsonl"):
        other = train("resume=run", "max_steps=3")
    assert other.code == 1
    assert "Another process is using the run folder" in other.err
    assert not (folder / "summary.json").exists()
    assert not (folder / "error.log").exists()


@pytest.mark.parametrize(("before", "after"), [(["-q"], []), ([], ["--quiet"])])
def test_quiet_prints_nothing_and_still_writes_the_log(train, before, after):
    overrides = [*FIRST_ORDER, "max_steps=1", "hydra.run.dir=run"]
    done = train(*before, *overrides, *after)
    assert (done.code, done.out, done.err) == (0, "", "")
    assert "finished after 1 step " in (done.folder / "run" / "train.log").read_text()


@pytest.mark.parametrize("override", ["validation=0.1", "train_examples=3"])
def test_an_environment_has_no_training_part_to_cut(train, override):
    done = train("experiment=cartpole", override)
    name = override.partition("=")[0]
    assert (done.code, done.made) == (2, [])
    assert f"`{name}` needs a dataset; `cartpole` is an environment." in done.err


def test_first_order_runs_have_the_name_of_their_optimiser(train):
    done = train(*FIRST_ORDER, "max_steps=1", "hydra.run.dir=run")
    assert done.code == 0, done.err
    assert json.loads((done.folder / "run" / "summary.json").read_text())["curvature"] == "sgd"
    config = yaml.safe_load((done.folder / "run" / "config.yaml").read_text())
    assert "curvature" not in config["choices"]


def test_a_sweep_prints_one_table(train):
    done = train(
        "-m", *SECOND_ORDER, "curvature=identity,gauss_newton", "seed=7", task=lambda _: FINISHED
    )
    assert done.code == 0
    names = "curvature", "status", "steps", "seconds", "train loss", "test loss", "accuracy"
    numbers = "finished", "3", "1.5", "0.25", "0.5", "0.875"
    assert [list(row.items()) for row in rows(done.out)] == [
        list(zip(names, (curvature, *numbers), strict=True))
        for curvature in ("identity", "gauss_newton")
    ]


def test_a_configuration_may_define_a_sweep(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("extra")
    (folder / "experiment").mkdir()
    (folder / "experiment" / "both.yaml").write_text(
        "# @package _global_\n"
        "hydra: {mode: MULTIRUN, sweeper: {params: {curvature: 'identity,gauss_newton'}}}\n"
    )
    ran = []

    def task(job):
        ran.append((job.config["curvature"]["_target_"], job.config["seed"]))
        return FINISHED

    added = "--config-dir", str(folder), "experiment=both"
    done = train(*added, *SECOND_ORDER, "seed=0,1", task=task)
    assert done.code == 0, done.err
    names = "curvature.Identity", "curvature.GaussNewton"
    assert ran == [(name, seed) for name in names for seed in (0, 1)]


def test_one_failed_job_does_not_end_the_sweep(train):
    ran = []

    def task(job):
        ran.append(job.config["seed"])
        if job.config["seed"] == 0:
            raise RuntimeError("out of memory")
        return FINISHED

    done = train("-m", *FIRST_ORDER, "seed=0,1", task=task)
    assert ran == [0, 1]
    assert done.code == 1
    assert "out of memory" in done.err
    assert "Traceback" not in done.err
    table = rows(done.out)
    assert [row["status"] for row in table] == ["failed", "finished"]
    assert table[0]["reason"].startswith("RuntimeError: out of memory")
    (log,) = [path for path in done.made if path.name == "error.log"]
    assert log.parent.name == "0"
    assert "RuntimeError: out of memory" in log.read_text()


def test_a_sweep_ends_with_a_report(train):
    def task(job):
        if job.config["seed"] == 1:
            raise RuntimeError("out of memory")
        (summary,) = run([job])
        return summary

    overrides = [*FIRST_ORDER, "seed=0,1,2", "max_steps=2", "hydra.sweep.dir=sweep"]
    done = train("-m", *overrides, task=task)
    assert done.code == 1
    page = done.folder / "sweep" / "report" / "report.html"
    assert done.out.splitlines()[-1] == f"report {page}"
    assert "│ sgd                   │   2 of 2 │" in done.out
    text = page.read_text()
    assert "3 runs, 2 finished" in text
    assert "RuntimeError: out of memory" in text


def test_a_report_that_fails_does_not_break_the_sweep(train, monkeypatch):
    def fail(folders):
        raise OSError("no space left")

    monkeypatch.setattr(training.report, "write_report", fail)
    done = train("-m", *FIRST_ORDER, "seed=0,1", task=lambda _: FINISHED)
    assert done.code == 0
    assert done.out.splitlines()[-1].startswith("No report: OSError: no space left")


def test_a_failed_run_exits_with_1(train):
    def task(job):
        raise RuntimeError("out of memory")

    done = train(*FIRST_ORDER, "hydra.run.dir=run", task=task)
    assert done.code == 1
    assert done.err.splitlines() == [
        "RuntimeError: out of memory (`debug=true` shows the traceback)"
    ]


@pytest.mark.parametrize("code", slow_but([75], [0, 1, 75, 130]))
def test_exit_codes_of_a_run_are_passed_on(code, train):
    def task(job):
        return {"status": "whatever", "exit_code": code}

    assert train(*FIRST_ORDER, task=task).code == code


def test_an_interrupted_sweep_starts_no_other_job(train):
    ran = []

    def task(job):
        ran.append(job.config["seed"])
        return {"status": "interrupted", "exit_code": 75}

    done = train("-m", *FIRST_ORDER, "seed=0,1", task=task)
    assert ran == [0]
    assert done.code == 75
    assert [row["status"] for row in rows(done.out)] == ["interrupted", "not started"]


def test_the_precision_of_a_job_is_its_own(train):
    dtypes = []

    def task(job):
        run = build(job)
        dtypes.append(
            {str(leaf.dtype) for leaf in jax.tree.leaves(run.model) if hasattr(leaf, "dtype")}
        )
        return FINISHED

    assert train("-m", *FIRST_ORDER, "x64=true,false", task=task).code == 0
    assert dtypes == [{"float64"}, {"float32"}]


def test_sizes_follow_the_dataset_and_weights_the_seed(train):
    built = []

    def task(job):
        built.append(build(job).model)
        return FINISHED

    parts = "dataset=diabetes", "likelihood=gaussian"
    for seeds in ("seed=0,1", "seed=0,2"):
        done = train("-m", *FIRST_ORDER, seeds, *parts, task=task)
        assert done.code == 0, done.err
    first, other, again, _ = (jax.tree.leaves(model)[0] for model in built)
    assert first.shape == (1, 10)
    assert (first != other).any()
    assert (first == again).all()


def test_lists_are_plain_lists(train):
    seen = []

    def task(job):
        seen.append(job.config["model"]["channels"])
        return FINISHED

    assert train("model=convnet", "model.channels=[4,8]", "optimiser=sgd", task=task).code == 0
    assert seen == [[4, 8]]
    assert type(seen[0]) is list


def test_hydra_answers_questions(train):
    done = train("--cfg", "job", "curvature=identity")
    assert done.code == 0
    assert yaml.safe_load(done.out)["curvature"] == {"_target_": "curvature.Identity"}
    assert not done.made


def test_ctrl_c_outside_of_a_run_exits_with_130(train):
    def task(job):
        raise KeyboardInterrupt

    assert train(*FIRST_ORDER, task=task).code == 130
