"""Runs that share a program: each has the results and the files of a run on its own."""

import dataclasses
import json
import os
import signal

import equinox as eqx
import jax
import numpy as np
import optax
import optimistix as optx
import pytest

import curvature as cv
from data import Rows, Stream, held_out
from tests.selection import slow_but
from training import AbstractRecorder, ExitCode, FolderError, alike, train, train_together

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


@pytest.fixture(params=slow_but([False], [False, True]), ids=["in_a_loop", "by_vmap"])
def loop_or_vmap(request, monkeypatch):
    """Repeat the test with a loop over the runs and with `vmap`, whatever the device would use."""
    monkeypatch.setattr("training.together.uses_vmap", lambda: request.param)


@pytest.fixture
def seeds(make_run, make_net):
    """Makes runs that differ in seed and initial weights."""

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
    """All recorded floating-point numbers, except the time and the cost of the steps."""
    aside = "seconds", "processor_seconds", "gradient_equivalents"
    kept = ({name: record[name] for name in record if name not in aside} for record in records)
    return [[value for value in record.values() if isinstance(value, float)] for record in kept]


def spent(records):
    return [record["gradient_equivalents"] for record in records]


@pytest.fixture(scope="module")
def alone_of(tmp_path_factory):
    """The summary and the folder of each run on its own; the cases of a test share them."""
    found = {}

    def of(name, runs):
        if name not in found:
            paths = folders(tmp_path_factory.mktemp("alone"), len(runs))
            found[name] = [(train(run, path), path) for run, path in zip(runs, paths, strict=True)]
        return found[name]

    return of


@pytest.mark.parametrize("name", slow_but(("sgd",), OPTIMISERS))
def test_every_run_has_the_results_of_a_run_on_its_own(
    name, loop_or_vmap, seeds, x64, standard_promotion, read_records, weights, alone_of, tmp_path
):
    runs = seeds(3, optimiser=OPTIMISERS[name](), max_steps=7)
    together = folders(tmp_path, 3)
    summaries = train_together(runs, together)
    for folder, summary, (alone, path) in zip(
        together, summaries, alone_of(name, runs), strict=True
    ):
        ours, theirs = read_records(folder), read_records(path)
        np.testing.assert_allclose(numbers(ours), numbers(theirs), rtol=1e-10)
        np.testing.assert_allclose(spent(ours), spent(theirs), rtol=0.05)
        for key in ("train_loss", "test_loss", "steps", "rejected", "seed"):
            assert summary[key] == pytest.approx(alone[key], rel=1e-10)
        assert summary["vectorised"] == 3
        assert "vectorised" not in alone


@pytest.mark.slow
def test_the_runs_may_differ_in_numbers_of_the_optimiser(
    loop_or_vmap, make_run, read_records, tmp_path
):
    dampings = 0.1, 1.0, 10.0
    runs = [make_run(optimiser=natural(cv.GaussNewton(), damping=d)) for d in dampings]
    train_together(runs, folders(tmp_path, 3))
    for damping, folder in zip(dampings, folders(tmp_path, 3), strict=True):
        assert {record["damping"] for record in read_records(folder)} == {
            float(np.float32(damping))
        }
    assert len({read_records(folder)[-1]["loss"] for folder in folders(tmp_path, 3)}) == 3


def test_each_run_can_be_resumed_on_its_own_after_a_signal(
    seeds, whole_alone, at_step, tmp_path, read_records, weights, leaves_equal
):
    """The signal stops all runs after the same step."""
    at_step(9, lambda: os.kill(os.getpid(), signal.SIGTERM))
    runs = seeds(3)
    together = folders(tmp_path, 3)
    for summary in train_together(runs, together):
        assert (summary["status"], summary["exit_code"]) == ("interrupted", ExitCode.RESUMABLE)
        assert summary["steps"] == read_records(together[0])[-1]["step"]
    summary = train(runs[1], together[1], resume=True)
    assert (summary["status"], summary["steps"]) == ("finished", 20)
    assert "vectorised" not in summary
    assert [record["step"] for record in read_records(together[1])] == list(range(1, 21))
    np.testing.assert_allclose(
        numbers(read_records(together[1])), numbers(read_records(whole_alone)), rtol=1e-4
    )
    assert not (together[0] / "checkpoints" / "step_000000020.ckpt").exists()


def test_every_run_can_be_resumed_after_the_program_has_died(
    seeds, whole_alone, at_step, tmp_path, read_records
):
    """The program dies when one run has written its record of a step and the other has not."""

    def die():
        raise RuntimeError("the machine is gone")

    at_step(9, die)
    runs, together = seeds(2, checkpoint_seconds=1e-9), folders(tmp_path, 2)
    with pytest.raises(RuntimeError, match="the machine is gone"):
        train_together(runs, together)
    for run, folder in zip(runs, together, strict=True):
        assert train(run, folder, resume=True)["steps"] == 20
        assert [record["step"] for record in read_records(folder)] == list(range(1, 21))
    np.testing.assert_allclose(
        numbers(read_records(together[1])), numbers(read_records(whole_alone)), rtol=1e-4
    )


@pytest.fixture
def whole_alone(seeds, tmp_path):
    """The folder of the second run, trained on its own and not interrupted."""
    train(seeds(2)[1], tmp_path / "alone")
    return tmp_path / "alone"


def test_a_run_that_diverges_ends_while_the_others_go_on(
    loop_or_vmap, make_run, seeds, read_records, tmp_path
):
    """Its weights are so large that their squares overflow, so every step is rejected."""
    good, bad, other = seeds(3, max_rejections=3)
    huge = jax.tree.map(lambda w: w * 1e30 if eqx.is_array(w) else w, bad.model)
    bad = dataclasses.replace(bad, model=huge)
    together = folders(tmp_path, 3)
    first, broken, last = train_together([good, bad, other], together)
    assert [first["status"], broken["status"], last["status"]] == [
        *("finished", "diverged", "finished"),
    ]
    assert broken["exit_code"] == ExitCode.FAILED
    assert "3 rejected steps in a row" in broken["reason"]
    assert [len(read_records(folder)) for folder in together] == [20, 3, 20]
    assert [(folder / "checkpoints").exists() for folder in together] == [True, False, True]
    assert all((folder / "model.eqx").exists() for folder in together)


def test_the_first_nan_ends_only_its_run(seeds, tmp_path):
    good, bad = seeds(2, stop_at_nan=True, max_steps=3)
    huge = jax.tree.map(lambda w: w * np.nan if eqx.is_array(w) else w, bad.model)
    summaries = train_together([good, dataclasses.replace(bad, model=huge)], folders(tmp_path, 2))
    assert [summary["status"] for summary in summaries] == ["finished", "diverged"]
    assert summaries[1]["reason"].startswith("Stopped at step 1. ")


def test_the_best_state_of_each_is_kept(seeds, dataset, tmp_path):
    held = held_out(dataset, 0.2)
    runs = seeds(2, dataset=held, validation=0.2, evaluate_every=3, max_steps=7)
    summaries = train_together(runs, folders(tmp_path / "together", 2))
    for run, folder, summary in zip(
        runs, folders(tmp_path / "together", 2), summaries, strict=True
    ):
        alone = train(run, tmp_path / "alone" / folder.name)
        assert summary["best"]["step"] == alone["best"]["step"]
        assert summary["best"]["loss"] == pytest.approx(alone["best"]["loss"], rel=1e-4)
        for name in ("best.ckpt", "best.eqx"):
            assert (folder / "checkpoints" / name).exists()


def test_recorders_receive_only_their_own_run(seeds, tmp_path):
    class Kept(AbstractRecorder):
        arrays_every = 2

        def begin(self, folder, config, steps):
            self.folder, self.records, self.updates = folder, [], {}

        def record(self, record):
            self.records.append(record["step"])

        def arrays(self, step, arrays):
            self.updates[step] = arrays.updates["mlp/layers/0/weight"]

        def end(self, summary):
            self.seed = summary["seed"]

    recorders = [Kept(), Kept()]
    runs = [
        dataclasses.replace(run, recorders={"kept": recorder})
        for run, recorder in zip(seeds(2, max_steps=4), recorders, strict=True)
    ]
    train_together(runs, folders(tmp_path, 2))
    for number, recorder in enumerate(recorders):
        assert (recorder.folder.name, recorder.seed) == (str(number), number)
        assert recorder.records == [1, 2, 3, 4]
        assert sorted(recorder.updates) == [2, 4]
        assert np.abs(recorder.updates[4]).max() > 0
    assert not np.array_equal(recorders[0].updates[2], recorders[1].updates[2])


def test_a_second_ctrl_c_ends_all_runs_at_once(seeds, at_step, tmp_path):
    def press_twice():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    at_step(3, press_twice)
    summaries = train_together(seeds(2), folders(tmp_path, 2))
    assert [summary["exit_code"] for summary in summaries] == [ExitCode.INTERRUPTED] * 2
    assert all((folder / "summary.json").exists() for folder in folders(tmp_path, 2))


def test_an_error_in_a_step_fails_all_runs(seeds, at_step, tmp_path):
    def die():
        raise RuntimeError("the machine is gone")

    at_step(3, die)
    with pytest.raises(RuntimeError, match="the machine is gone"):
        train_together(seeds(2), folders(tmp_path, 2))
    for folder in folders(tmp_path, 2):
        summary = json.loads((folder / "summary.json").read_text())
        assert (summary["status"], summary["reason"]) == ("failed", "the machine is gone")


def test_runs_that_can_share_a_program_are_alike(make_run, make_net):
    run = make_run()
    assert alike(run, make_run(seed=5))
    assert alike(
        make_run(optimiser=natural(cv.Identity())),
        make_run(optimiser=natural(cv.Identity(), damping=2.0)),
    )
    others = [
        make_run(batch_size=128),
        make_run(epochs=5),
        make_run(model=make_net(11)),
        make_run(optimiser=natural(cv.GaussNewton())),
        make_run(optimiser=cv.FirstOrder(LOSS, optax.sgd(0.2, momentum=0.9))),
    ]
    assert not any(alike(run, other) for other in others)
    assert not alike(
        *(make_run(optimiser=natural(cv.SampledFisher(samples))) for samples in (1, 2))
    )


def test_runs_that_cannot_share_a_program_are_refused(make_run, dataset, with_nan, tmp_path):
    with pytest.raises(ValueError, match=r"`sgd` and `sgd` differ in more"):
        train_together([make_run(), make_run(batch_size=128)], folders(tmp_path, 2))
    with pytest.raises(ValueError, match=r"takes runs on the same dataset"):
        train_together([make_run(), make_run(dataset=with_nan(slice(1)))], folders(tmp_path, 2))
    with pytest.raises(ValueError, match=r"share one device, got `devices=2`"):
        train_together([make_run(devices=2)] * 2, folders(tmp_path, 2))
    stream = make_run(dataset=Stream("rows", Rows(dataset.train), dataset.test, (8, 8), 10))
    assert not alike(stream, stream)
    with pytest.raises(ValueError, match=r"the stream `rows` can feed only one run"):
        train_together([stream] * 2, folders(tmp_path, 2))
    assert not any(folder.exists() for folder in folders(tmp_path, 2))
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "metrics.jsonl").touch()
    with pytest.raises(FolderError, match="already holds a run"):
        train_together([make_run()] * 2, folders(tmp_path, 2))
    assert not (tmp_path / "0").exists()
