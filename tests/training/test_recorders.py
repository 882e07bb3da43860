import numpy as np
import pytest

from tests.selection import slow_but
from training import AbstractRecorder, train
from training.recorders import Figures, TensorBoard


class Notes(AbstractRecorder):
    """Keeps everything that it receives from a run."""

    def __init__(self, arrays_every=None):
        self.arrays_every = arrays_every
        self.begun, self.records, self.taken, self.ended = [], [], {}, []

    def begin(self, folder, config, steps):
        self.begun.append((folder, dict(config), steps))

    def record(self, record):
        self.records.append(dict(record))

    def arrays(self, step, arrays):
        self.taken[step] = arrays

    def end(self, summary):
        self.ended.append(summary)


class Broken(Notes):
    """Raises in the method of the given name; in `record` only from the second call on."""

    def __init__(self, method):
        super().__init__(arrays_every=1)
        self._method = method

    def __getattribute__(self, name):
        method = object.__getattribute__(self, "__dict__").get("_method")
        is_first = name == "record" and not object.__getattribute__(self, "records")
        if name != method or is_first:
            return object.__getattribute__(self, name)
        raise RuntimeError("The server is\naway.")


def test_a_recorder_receives_all_events_of_a_run(make_run, tmp_path, read_records):
    notes = Notes()
    summary = train(make_run(recorders={"notes": notes}), tmp_path)
    assert notes.begun == [(tmp_path, {"name": "tiny"}, 0)]
    assert [r["step"] for r in notes.records] == list(range(1, 21))
    written = read_records(tmp_path)
    assert [r["loss"] for r in notes.records] == [r["loss"] for r in written]
    assert notes.ended == [summary]
    assert notes.taken == {}


def test_the_arrays_are_those_of_their_step(make_run, whole, tmp_path, sgd, weights, leaves_equal):
    """The gradient is that at the weights before the step. The results of the run do not change."""
    notes = Notes(arrays_every=7)
    run = make_run(recorders={"notes": notes})
    train(run, tmp_path)
    assert leaves_equal(weights(tmp_path), weights(whole))
    assert list(notes.taken) == [7, 14]
    first = notes.taken[7]
    paths = {f"mlp/layers/{layer}/{name}" for layer in (0, 1) for name in ("weight", "bias")}
    assert set(first.weights) == set(first.gradients) == set(first.updates) == paths
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in first.gradients.values()))
    np.testing.assert_allclose(notes.records[6]["grad_norm"], norm, rtol=1e-5)
    length = np.sqrt(sum(np.sum(np.square(u)) for u in first.updates.values()))
    np.testing.assert_allclose(notes.records[6]["step_norm"], length, rtol=1e-4)


@pytest.mark.parametrize("method", slow_but(["record"], ["begin", "record", "arrays", "end"]))
def test_a_recorder_that_fails_does_not_end_the_run(
    make_run, whole, tmp_path, weights, leaves_equal, capsys, method
):
    broken, notes = Broken(method), Notes()
    summary = train(make_run(recorders={"broken": broken, "notes": notes}), tmp_path)
    assert summary["status"] == "finished"
    assert leaves_equal(weights(tmp_path), weights(whole))
    assert len(notes.records) == 20
    sentence = "The recorder `broken` failed and is no longer used: RuntimeError: The server is"
    for text in (capsys.readouterr().err, (tmp_path / "train.log").read_text()):
        assert text.count(sentence) == 1
    assert len(broken.records) == {"begin": 0, "record": 1, "arrays": 1, "end": 20}[method]


def test_a_recorder_receives_the_number_of_earlier_steps(make_run, tmp_path):
    train(make_run(max_steps=7), tmp_path)
    notes = Notes()
    train(make_run(recorders={"notes": notes}), tmp_path, resume=True)
    assert notes.begun[0][2] == 7
    assert [r["step"] for r in notes.records] == list(range(8, 21))


def events(folder):
    """The events in TensorBoard's files, oldest first."""
    from tensorboardX.proto import event_pb2

    found = []
    for path in sorted(folder.rglob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            # A record is the length, its checksum, the event, and the event's checksum.
            length = int.from_bytes(data[at : at + 8], "little")
            found.append(event_pb2.Event.FromString(data[at + 12 : at + 12 + length]))
            at += 12 + length + 4
    return found


def values_of(folder):
    """(tag, step, value) for every value in TensorBoard's files."""
    return [(v.tag, event.step, v) for event in events(folder) for v in event.summary.value]


def test_tensorboard_has_scalars_histograms_and_hyperparameters(make_run, tmp_path, read_records):
    run = make_run(recorders={"tensorboard": TensorBoard(histograms_every=10)})
    summary = train(run, tmp_path)
    found = values_of(tmp_path / "tensorboard")
    losses = {step: v.simple_value for tag, step, v in found if tag == "loss"}
    assert losses == pytest.approx({r["step"]: r["loss"] for r in read_records(tmp_path)})
    histograms = {(tag, step) for tag, step, v in found if v.HasField("histo")}
    kinds = {tag.split("/")[0] for tag, _ in histograms}
    assert kinds == {"weights", "gradients", "updates"}
    assert {step for _, step in histograms} == {10, 20}
    values = {tag: v.simple_value for tag, _, v in found}
    assert values["summary/test_loss"] == pytest.approx(summary["test_loss"])
    assert any(tag.startswith("_hparams_") for tag in values)


def test_a_resumed_run_replaces_the_later_steps_in_tensorboard(make_run, tmp_path):
    """At a start of a session TensorBoard drops what it has of this step and of later ones."""
    for steps, resume in ((7, False), (20, True)):
        run = make_run(max_steps=steps, recorders={"tensorboard": TensorBoard(None)})
        train(run, tmp_path, resume=resume)
    folder = tmp_path / "tensorboard"
    starts = [event.step for event in events(folder) if event.HasField("session_log")]
    assert starts == [1, 8]
    assert [step for tag, step, _ in values_of(folder) if tag == "loss"] == list(range(1, 21))


def test_tensorboard_takes_numbers_that_are_not_finite(make_run, with_nan, tmp_path):
    run = make_run(
        dataset=with_nan(slice(0, 1)),
        recorders={"tensorboard": TensorBoard(histograms_every=1)},
    )
    train(run, tmp_path)
    assert "failed" not in (tmp_path / "train.log").read_text()
    assert len({step for tag, step, _ in values_of(tmp_path / "tensorboard") if tag == "loss"}) < 20


@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_histograms_every_must_be_a_positive_integer(value):
    with pytest.raises(ValueError, match=r"histograms_every=\.\.\.\)` must be a positive integer"):
        TensorBoard(histograms_every=value)


def test_figures_are_drawn_at_the_end(make_run, tmp_path):
    train(make_run(recorders={"figures": Figures()}), tmp_path)
    assert "failed" not in (tmp_path / "train.log").read_text()
    made = {path.suffix for path in (tmp_path / "report").iterdir()}
    assert made == {".html", ".csv", ".png"}
