import json
import os
import signal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import yaml

import curvature as cv
from data import held_out
from tests.selection import slow_but
from training import AbstractRecorder, ExitCode, FolderError, train


@pytest.fixture
def assert_same_records(read_records):
    """Asserts that the records of two folders are equal, except for the fields in `but`."""

    def check(folder, other, but=("seconds", "processor_seconds")):
        first, second = (
            [{**record, **dict.fromkeys(but)} for record in read_records(path)]
            for path in (folder, other)
        )
        assert first == second

    return check


def test_a_run_writes_its_results_to_its_folder(
    make_run, tmp_path, read_records, weights, leaves_equal, model, dataset
):
    folder = tmp_path / "new" / "run"
    summary = train(make_run(), folder)
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert yaml.safe_load((folder / "config.yaml").read_text()) == {"name": "tiny"}
    expected = {
        "status": "finished",
        "exit_code": 0,
        "curvature": "sgd",
        "seed": 3,
        "steps": 20,
        "epochs": 4.0,
        "rejected": 0,
        "parameters": 64 * 8 + 8 + 8 * 10 + 10,
    }
    assert {name: summary[name] for name in expected} == expected
    assert "reason" not in summary
    assert 0 < summary["compile_seconds"] < summary["seconds"]
    assert 0 < summary["compile_processor_seconds"] < summary["processor_seconds"]
    records = read_records(folder)
    assert [record["step"] for record in records] == list(range(1, 21))
    assert [record["epoch"] for record in records] == [step / 5 for step in range(1, 21)]
    for name in ("seconds", "processor_seconds"):
        spent = [record[name] for record in records]
        assert spent == sorted(spent)
        assert summary[f"compile_{name}"] < spent[0]
        assert spent[-1] == summary[name]
    assert records[0].keys() >= {
        *("step", "epoch", "seconds", "loss", "damping", "solver_steps", "reduction_ratio"),
        *("grad_norm", "step_norm", "solver_residual", "metric_step", "accepted"),
    }
    assert "result" not in records[0]
    final = weights(folder)
    assert not leaves_equal(final, model)
    for name in ("train", "test"):
        x, y = getattr(dataset, name)
        z = np.asarray(jax.vmap(final)(jnp.asarray(x)), np.float64)
        loss = np.mean(np.log(np.exp(z).sum(-1)) - z[np.arange(len(y)), y])
        np.testing.assert_allclose(summary[f"{name}_loss"], loss, rtol=1e-5)
    assert summary["test"] == {"accuracy": pytest.approx(np.mean(z.argmax(-1) == y))}


@pytest.mark.parametrize(
    ("epochs", "max_steps", "steps"), [(2, None, 10), (2, 100, 10), (100, 7, 7), (2, 10, 10)]
)
def test_epochs_or_max_steps_whichever_comes_first(make_run, epochs, max_steps, steps):
    assert make_run(epochs=epochs, max_steps=max_steps).total_steps == steps


def test_the_averaged_weights_are_evaluated_saved_and_resumed(
    make_run, tmp_path, weights, leaves_equal, sgd, model, dataset, assert_same_records
):
    """They are the mean of the weights after each step. The average does not change the steps."""
    averaged = make_run(optimiser=cv.Averaged(sgd, decay=None), max_steps=2)
    summary = train(averaged, tmp_path / "average")
    after = []
    for steps in (1, 2):
        train(make_run(max_steps=steps), tmp_path / str(steps))
        after.append(weights(tmp_path / str(steps)))
    costs = "seconds", "processor_seconds", "gradient_equivalents"  # the average has a cost, too
    assert_same_records(tmp_path / "average", tmp_path / "2", but=costs)
    mean = jax.tree.map(
        lambda *w: np.mean(np.stack(w), axis=0) if eqx.is_array(w[0]) else w[0], *after
    )
    saved = weights(tmp_path / "average")
    for a, b in zip(*(jax.tree.leaves(eqx.filter(m, eqx.is_array_like)) for m in (saved, mean))):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    x, y = (jnp.asarray(array) for array in dataset.test)
    loss = sgd.objective.loss(saved, (x, y))
    np.testing.assert_allclose(summary["test_loss"], loss, rtol=1e-5)
    train(make_run(optimiser=averaged.optimiser, max_steps=1), tmp_path / "parts")
    train(averaged, tmp_path / "parts", resume=True)
    assert leaves_equal(weights(tmp_path / "parts"), saved)


def test_the_test_part_is_evaluated_every_few_steps(
    make_run, whole, tmp_path, read_records, weights, leaves_equal
):
    """The record of such a step has the values of the summary of a run that ends with this step.

    The evaluations do not change the steps.
    """
    run = make_run(evaluate_every=3)
    summary = train(run, tmp_path)
    assert leaves_equal(weights(tmp_path), weights(whole))
    found = {r["step"]: (r["test_loss"], r["test"]) for r in read_records(tmp_path) if "test" in r}
    assert list(found) == [3, 6, 9, 12, 15, 18]
    shorter = train(make_run(max_steps=9), tmp_path / "shorter")
    assert found[9] == (shorter["test_loss"], shorter["test"])
    assert found[18] != (summary["test_loss"], summary["test"])


def test_the_test_part_can_be_left_for_the_end(make_run, dataset, tmp_path, read_records):
    """The validation part is evaluated as before."""
    run = make_run(
        dataset=held_out(dataset, 0.2), evaluate_every=3, evaluate_test=False, max_steps=6
    )
    summary = train(run, tmp_path)
    records = read_records(tmp_path)
    assert [r["step"] for r in records if "validation" in r] == [3, 6]
    assert not any("test" in r for r in records)
    assert summary["test_loss"] is not None


def test_the_state_with_the_lowest_validation_loss_is_kept(
    make_run, dataset, tmp_path, read_records, model, sgd
):
    """The validation part is evaluated at the end of each epoch."""
    run = make_run(dataset=held_out(dataset, 0.2), epochs=3)
    summary = train(run, tmp_path)
    found = {r["step"]: r["validation_loss"] for r in read_records(tmp_path) if "validation" in r}
    assert list(found) == [4, 8, 12]
    step = min(found, key=found.get)
    assert summary["best"] == {"step": step, "by": "validation_loss", "loss": found[step]}
    assert summary["validation_loss"] == found[12]
    best = eqx.tree_deserialise_leaves(tmp_path / "checkpoints" / "best.eqx", model)
    x, y = (jnp.asarray(array) for array in run.dataset.validation)
    np.testing.assert_allclose(sgd.objective.loss(best, (x, y)), found[step], rtol=1e-5)


def test_without_validation_the_best_epoch_has_the_lowest_mean_loss(make_run, whole, read_records):
    losses = [record["loss"] for record in read_records(whole)]
    means = [np.mean(losses[i : i + 5]) for i in range(0, 20, 5)]
    best = json.loads((whole / "summary.json").read_text())["best"]
    assert best["by"] == "train_loss"
    assert best["step"] == 5 * (1 + int(np.argmin(means)))
    assert best["loss"] == pytest.approx(min(means))


def test_without_a_batch_size_every_step_takes_all_examples(make_run, tmp_path, read_records, sgd):
    """A step is then an epoch, on all examples in their order."""
    run = make_run(batch_size=None, epochs=3)
    summary = train(run, tmp_path)
    assert (summary["steps"], summary["epochs"]) == (3, 3)
    model, batch = run.model, jax.tree.map(jnp.asarray, run.dataset.train)
    state = sgd.init(model)
    for record in read_records(tmp_path):
        model, state, info = sgd.step(model, batch, state)
        np.testing.assert_allclose(record["loss"], info.loss, rtol=1e-5)


def test_a_run_depends_on_its_seed_alone(make_run, whole, tmp_path, weights, leaves_equal):
    train(make_run(), tmp_path / "again")
    train(make_run(seed=4), tmp_path / "other")
    assert leaves_equal(weights(tmp_path / "again"), weights(whole))
    assert not leaves_equal(weights(tmp_path / "other"), weights(whole))


def test_a_folder_with_a_run_is_refused_and_not_changed(make_run, tmp_path):
    train(make_run(max_steps=2), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(FolderError, match="already holds a run"):
        train(make_run(seed=9), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_run_that_cannot_work_makes_no_folder(make_run, tmp_path):
    with pytest.raises(ValueError, match="`batch_size` must be at most"):
        train(make_run(batch_size=5000), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


SIGNALS = signal.SIGTERM, signal.SIGUSR2, signal.SIGINT


@pytest.mark.parametrize("number", slow_but([signal.SIGTERM, signal.SIGINT], SIGNALS))
def test_a_signal_stops_a_run_that_can_be_resumed(
    make_run, whole, tmp_path, at_step, weights, leaves_equal, assert_same_records, number
):
    at_step(8, lambda: os.kill(os.getpid(), number))
    stopped = train(make_run(), tmp_path)
    code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.RESUMABLE
    assert (stopped["status"], stopped["exit_code"]) == ("interrupted", code)
    assert f"{number.name} after step {stopped['steps']}" in stopped["reason"]
    assert 8 <= stopped["steps"] <= 9
    resumed = train(make_run(), tmp_path, resume=True)
    assert resumed["status"] == "finished"
    assert resumed["seconds"] > stopped["seconds"]
    assert leaves_equal(weights(tmp_path), weights(whole))
    assert_same_records(tmp_path, whole)
    uninterrupted = json.loads((whole / "summary.json").read_text())
    for name in ("steps", "epochs", "train_loss", "test_loss", "test", "rejected"):
        assert resumed[name] == uninterrupted[name]


def test_a_dead_run_resumes_from_its_last_checkpoint(
    make_run, whole, tmp_path, at_step, read_records, weights, leaves_equal
):
    """A checkpoint is written after every step; the steps after the last one are repeated."""

    def die():
        raise RuntimeError("the machine is gone")

    at_step(9, die)
    run = make_run(checkpoint_seconds=1e-9)
    with pytest.raises(RuntimeError, match="the machine is gone"):
        train(run, tmp_path / "parts")
    with open(tmp_path / "parts" / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 10, "lo')
    train(run, tmp_path / "parts", resume=True)
    assert leaves_equal(weights(tmp_path / "parts"), weights(whole))
    steps = [record["step"] for record in read_records(tmp_path / "parts")]
    assert steps == list(range(1, 21))


def test_missing_records_are_reported(make_run, tmp_path, at_step, read_records):
    at_step(8, lambda: os.kill(os.getpid(), signal.SIGTERM))
    stopped = train(make_run(), tmp_path)["steps"]
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:3]))
    assert train(make_run(), tmp_path, resume=True)["status"] == "finished"
    said = f"`metrics.jsonl` ends after step 3, but the run continues after step {stopped}"
    assert said in (tmp_path / "train.log").read_text(encoding="utf-8")
    steps = [record["step"] for record in read_records(tmp_path)]
    assert steps == [1, 2, 3, *range(stopped + 1, 21)]


def test_without_a_checkpoint_a_resumed_run_begins_again(
    make_run, whole, tmp_path, at_step, read_records, weights, leaves_equal
):
    def die():
        raise RuntimeError("the machine is gone")

    at_step(9, die)
    with pytest.raises(RuntimeError, match="the machine is gone"):
        train(make_run(), tmp_path / "parts")
    assert not (tmp_path / "parts" / "checkpoints").exists()
    train(make_run(), tmp_path / "parts", resume=True)
    assert leaves_equal(weights(tmp_path / "parts"), weights(whole))
    assert len(read_records(tmp_path / "parts")) == 20


def test_a_finished_run_goes_on_for_more_epochs(
    make_run, whole, tmp_path, read_records, weights, leaves_equal
):
    assert train(make_run(max_steps=7), tmp_path / "parts")["steps"] == 7
    assert train(make_run(), tmp_path / "parts", resume=True)["steps"] == 20
    assert leaves_equal(weights(tmp_path / "parts"), weights(whole))
    assert len(read_records(tmp_path / "parts")) == 20


def test_a_second_ctrl_c_ends_the_run_at_once(make_run, tmp_path, at_step):
    def press_twice():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    at_step(3, press_twice)
    summary = train(make_run(), tmp_path)
    assert (summary["status"], summary["exit_code"]) == ("interrupted", ExitCode.INTERRUPTED)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


@pytest.mark.parametrize("limit", slow_but([2], [1, 2, 5]))
def test_rejected_steps_leave_the_weights_and_stop_the_run(
    make_run, with_nan, tmp_path, read_records, weights, leaves_equal, model, limit
):
    summary = train(make_run(dataset=with_nan(slice(None)), max_rejections=limit), tmp_path)
    assert (summary["status"], summary["exit_code"]) == ("diverged", ExitCode.FAILED)
    assert summary["steps"] == summary["rejected"] == limit
    records = read_records(tmp_path)
    assert [record["accepted"] for record in records] == [False] * limit
    assert [record["loss"] for record in records] == [None] * limit
    assert records[-1]["result"] in summary["reason"]
    assert f"{limit} rejected steps in a row" in summary["reason"]
    assert leaves_equal(weights(tmp_path), model)
    assert summary["train_loss"] is None or np.isnan(summary["train_loss"])
    assert json.loads((tmp_path / "summary.json").read_text())["train_loss"] is None


def test_the_best_state_of_a_run_that_diverges_is_kept(make_run, tmp_path, model, sgd):
    """It is written at the end, although a diverged run writes no last checkpoint."""
    broken = cv.FirstOrder(
        sgd.objective, optax.sgd(lambda updates: jnp.where(updates < 7, 0.1, jnp.inf))
    )
    run = make_run(optimiser=broken, max_rejections=2, checkpoint_seconds=1e6)
    summary = train(run, tmp_path)
    assert (summary["status"], summary["steps"]) == ("diverged", 9)
    assert summary["best"]["step"] == 5
    best = eqx.tree_deserialise_leaves(tmp_path / "checkpoints" / "best.eqx", model)
    shorter = make_run(optimiser=cv.FirstOrder(sgd.objective, optax.sgd(0.1)), epochs=1)
    train(shorter, tmp_path / "shorter")
    expected = eqx.tree_deserialise_leaves(tmp_path / "shorter" / "model.eqx", model)
    assert eqx.tree_equal(best, expected)


class Watched(AbstractRecorder):
    """Notes which files of the end of a run there are when the run begins."""

    def begin(self, folder, config, steps):
        self.found = [name for name in ("summary.json", "error.log") if (folder / name).exists()]

    def record(self, record):
        pass


def test_a_run_that_goes_on_has_no_end(make_run, tmp_path):
    """If it is killed, its summary must not be that of its earlier part."""
    train(make_run(epochs=1), tmp_path)
    (tmp_path / "error.log").write_text("of an earlier part")
    watched = Watched()
    train(make_run(recorders={"watched": watched}), tmp_path, resume=True)
    assert watched.found == []
    assert json.loads((tmp_path / "summary.json").read_text())["steps"] == 20


def test_a_run_of_rejected_steps_alone_has_not_finished(make_run, with_nan, tmp_path):
    run = make_run(dataset=with_nan(slice(None)), max_steps=2, max_rejections=3)
    summary = train(run, tmp_path)
    assert (summary["status"], summary["exit_code"]) == ("diverged", ExitCode.FAILED)
    assert summary["reason"].startswith("None of the 2 steps was accepted. The loss is not finite")


def test_only_rejections_in_a_row_stop_a_run(make_run, with_nan, tmp_path, read_records):
    """One broken example spoils at most one batch of an epoch, so never three batches in a row."""
    run = make_run(dataset=with_nan(slice(0, 1)), epochs=8, max_rejections=3)
    summary = train(run, tmp_path)
    rejected = [not record["accepted"] for record in read_records(tmp_path)]
    assert summary["steps"] == len(rejected)
    assert summary["rejected"] == sum(rejected) > 3
    assert (summary["status"], summary["exit_code"]) == ("diverged", ExitCode.FAILED)
    assert summary["reason"] == "The final loss of the train part is not finite."
    assert all(record["result"] for record in read_records(tmp_path) if not record["accepted"])


def test_an_error_in_a_step_is_recorded_and_raised(make_run, tmp_path, monkeypatch):
    def fail(self, packed):
        raise RuntimeError("The device caught fire.\nA long trace.")

    monkeypatch.setattr("training.stepper.Stepper.read", fail)
    with pytest.raises(RuntimeError, match="caught fire"):
        train(make_run(), tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["status"], summary["exit_code"]) == ("failed", ExitCode.FAILED)
    assert summary["reason"] == "The device caught fire."
    assert summary["train_loss"] is None
