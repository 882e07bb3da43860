"""The user's own data, from a file or a stream to a trained model."""

import json
import sys

import numpy as np
import pytest

from tests.docs.pages import file

CHEAP = "model=linear", "optimiser=sgd", "batch_size=20", "epochs=20", "hydra.run.dir=run"


def summary(done):
    assert done.code == 0, done.err
    return json.loads((done.folder / "run" / "summary.json").read_text())


def points(n=100):
    """Points in the plane, and for each the side of a line on which it lies."""
    x = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    return x, (x[:, 0] > x[:, 1]).astype(np.int64)


def test_arrays_train(train, tmp_path):
    x, y = points()
    np.savez(tmp_path / "own.npz", inputs=x, targets=y)
    done = summary(train("dataset=arrays", "dataset.path=own.npz", *CHEAP))
    assert done["steps"] == 20 * (80 // 20)
    assert done["test"]["accuracy"] > 0.9


def test_a_folder_of_arrays_gives_the_results_of_a_file(train, tmp_path):
    x, y = points()
    np.savez(tmp_path / "own.npz", inputs=x, targets=y)
    (tmp_path / "own").mkdir()
    np.save(tmp_path / "own" / "inputs.npy", x)
    np.save(tmp_path / "own" / "targets.npy", y)
    models = []
    for path in ("own.npz", "own"):
        run = *CHEAP[:-1], f"hydra.run.dir=run_{path}", "validation=0.1"
        assert train("dataset=arrays", f"dataset.path={path}", *run).code == 0
        models.append((tmp_path / f"run_{path}" / "model.eqx").read_bytes())
    assert models[0] == models[1]


@pytest.fixture
def own_stream(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    (tmp_path / "mine" / "dataset").mkdir(parents=True)
    (tmp_path / "mine" / "lines.py").write_text(file("streams/lines.py"))
    (tmp_path / "mine" / "dataset" / "lines.yaml").write_text(file("streams/dataset/lines.yaml"))
    return "--config-dir", "mine", "dataset=lines", *CHEAP[:-2]


def test_a_users_stream_trains_and_can_be_resumed(own_stream, train, tmp_path):
    for folder, first in (("whole", 40), ("parts", 10)):
        done = train(*own_stream, f"max_steps={first}", f"hydra.run.dir={folder}")
        assert done.code == 0, done.err
    done = train("--config-dir", "mine", "resume=parts", "max_steps=40")
    assert done.code == 0, done.err
    assert (
        "`lines` was read again from its beginning to reach the saved position: 10 batches"
        in done.err
    )
    models = [(tmp_path / name / "model.eqx").read_bytes() for name in ("whole", "parts")]
    assert models[0] == models[1]
    found = json.loads((tmp_path / "parts" / "summary.json").read_text())
    assert found["test"]["accuracy"] > 0.9


def test_a_stream_of_unknown_length_needs_max_steps_and_cannot_be_cut(own_stream, train, tmp_path):
    before = set(tmp_path.rglob("*"))
    for arguments, said in (
        ([], "`max_steps` must be set for the stream `lines`"),
        (["max_steps=5", "validation=0.1"], "`validation` cannot select examples of the stream"),
        (["max_steps=5", "train_examples=9"], "`train_examples` cannot select examples of"),
    ):
        done = train(*own_stream, *arguments)
        assert done.code == 2
        assert said in done.err
        assert len(done.err.splitlines()) == 1
    assert {path for path in tmp_path.rglob("*") if "__pycache__" not in str(path)} == before


def test_a_table_trains_to_regress(train, tmp_path):
    x, _ = points()
    rows = [f"{a},{b},{a + 2 * b}" for a, b in x]
    (tmp_path / "own.csv").write_text("\n".join(["a,b,sum", *rows]))
    named = "dataset=csv", "dataset.path=own.csv", "dataset.target=sum", "likelihood=gaussian"
    assert summary(train(*named, *CHEAP))["test"]["l2_error"] < 0.1


def test_bad_files_are_one_sentence(train, tmp_path):
    (tmp_path / "own.csv").write_text("a,b\n1,0\n,1\n")
    for arguments, said in (
        (["dataset=arrays"], "set `dataset.path`"),
        (["dataset=csv", "dataset.path=own.csv"], "set `dataset.target`"),
        (["dataset=csv", "dataset.path=own.csv", "dataset.target=b"], "in row 3"),
    ):
        done = train(*arguments)
        assert done.code == 2
        assert said in done.err
        assert len(done.err.splitlines()) == 1
