"""Parts outside of the repository, added by `--config-dir` as the documentation shows."""

import json
import sys
import types

import pytest

from tests.docs.pages import file

# Replaces the package `wandb`; prints the calls that it gets.
WANDB = """
class Run:
    summary = {}
    def log(self, record, step): print("logged", step)
    def finish(self): print("ended", self.summary["status"])
def init(project, config, dir): print("began", project, config["seed"]); return Run()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder with the user's files; afterwards their modules are removed from `sys.modules`."""
    in_its_place = types.ModuleType("wandb")
    exec(WANDB, in_its_place.__dict__)
    monkeypatch.setitem(sys.modules, "wandb", in_its_place)
    mine = tmp_path / "mine"
    files = {
        "half_fisher.py": file("mine/half_fisher.py"),
        "curvature/half_fisher.yaml": file("mine/curvature/half_fisher.yaml"),
        "wandb_recorder.py": file("mine/wandb_recorder.py"),
        "recorders/wandb.yaml": file("mine/recorders/wandb.yaml"),
        "recorders/lost.yaml": "# @package recorders.lost\n_target_: wandb_recorder.WandB",
        "broken.py": "import curvatur",
        "curvature/broken.yaml": "_target_: broken.Mine",
    }
    for name, text in files.items():
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text(text)
    yield tmp_path
    for path in mine.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_a_curvature_and_a_recorder_run(folder, train):
    mine = "--config-dir", "mine", "curvature=half_fisher", "recorders=wandb"
    cheap = "model=linear", "solver=cg", "search=learning_rate", "batch_size=20", "max_steps=2"
    done = train(*mine, *cheap, "hydra.run.dir=run")
    assert done.code == 0, done.err
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert (summary["curvature"], summary["steps"]) == ("half_fisher", 2)
    told = [line for line in done.out.splitlines() if line.startswith(("began", "log", "end"))]
    assert told == ["began curvature 0", "logged 1", "logged 2", "ended finished"]


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("curvature=broken", ["`curvature`: `broken.Mine` cannot be imported: ", "curvatur"]),
        ("recorders=lost", ["`recorders.lost`: `wandb_recorder.WandB` needs", "project"]),
    ],
)
def test_errors_of_added_parts_are_one_sentence(choice, said, folder, train):
    done = train("--config-dir", "mine", choice)
    assert done.code == 2
    (line,) = done.err.splitlines()
    for part in said:
        assert part in line
    assert {path.name for path in folder.iterdir()} == {"mine"}
