"""Own data, from a file to a trained model, without a line of Python."""

import json

import numpy as np

CHEAP = "model=linear", "optimiser=sgd", "batch_size=20", "epochs=20", "hydra.run.dir=run"


def summary(done):
    assert done.code == 0, done.err
    return json.loads((done.folder / "run" / "summary.json").read_text())


def points(n=100):
    """Points of the plane, and on which side of a line they lie."""
    x = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    return x, (x[:, 0] > x[:, 1]).astype(np.int64)


def test_arrays_train(train, tmp_path):
    x, y = points()
    np.savez(tmp_path / "own.npz", inputs=x, targets=y)
    done = summary(train("dataset=arrays", "dataset.path=own.npz", *CHEAP))
    assert done["steps"] == 20 * (80 // 20)
    assert done["test"]["accuracy"] > 0.9


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
