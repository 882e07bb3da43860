"""The documentation's recorders for Weights & Biases, MLflow and Trackio, used offline."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import file

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def trained(folder: Path, name: str, **variables: str) -> list[dict]:
    """The records of a run of three steps with the recorder `name` of the documentation."""
    for path in (f"mine/{name}_recorder.py", f"mine/recorders/{name}.yaml"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(file(path), encoding="utf-8")
    command = [sys.executable, str(ROOT / "train.py"), "--config-dir", "mine"]
    overrides = [f"recorders={name}", "model=linear", "max_steps=3", "hydra.run.dir=run"]
    environment = {**os.environ, **variables}
    done = subprocess.run(
        [*command, *overrides],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "failed and is no longer used" not in done.stderr
    lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_weights_and_biases(tmp_path):
    pytest.importorskip("wandb")
    trained(tmp_path, "wandb", WANDB_MODE="offline", WANDB_SILENT="true")
    (written,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    text = written.read_bytes()
    assert b"solver_residual" in text
    assert b"gradient_equivalents" in text


def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    records = trained(tmp_path, "mlflow")
    client = mlflow.MlflowClient(str(tmp_path / "mlruns"))
    experiment = client.get_experiment_by_name("curvature")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["model"] == "linear"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [each.value for each in history] == pytest.approx([each["loss"] for each in records])


def test_trackio(tmp_path):
    pytest.importorskip("trackio")
    records = trained(tmp_path, "trackio", TRACKIO_DIR=str(tmp_path / "store"))
    with sqlite3.connect(tmp_path / "store" / "curvature.db") as database:
        rows = database.execute("select run_name, step, metrics from metrics order by step")
        kept = [(name, step, json.loads(metrics)["loss"]) for name, step, metrics in rows]
    assert kept == [("run", each["step"], pytest.approx(each["loss"])) for each in records]
