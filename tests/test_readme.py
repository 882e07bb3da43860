"""What the README shows is run as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def _block(containing: str) -> str:
    (found,) = [text for _, text in BLOCKS if containing in text]
    return found


def test_the_library_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(_block("cv.NaturalGradient("), "README.md", "exec"), {})
    loss = float(capsys.readouterr().out.splitlines()[-1].split()[0])
    assert loss < 0.3  # it starts near log 2


def test_the_library_example_is_short() -> None:
    code = [line for line in _block("cv.NaturalGradient(").splitlines() if line.strip()]
    statements = [line for line in code if not line.startswith((" ", ")", "#", "import"))]
    assert len(statements) <= 20


def test_a_curvature_from_outside_runs(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "curvature").mkdir(parents=True)
    (mine / "half_fisher.py").write_text(_block("class HalfFisher"))
    (mine / "curvature" / "half_fisher.yaml").write_text(_block("half_fisher.HalfFisher"))
    folder = tmp_path / "run"
    command = (
        f"train.py --config-dir {mine} curvature=half_fisher max_steps=2 hydra.run.dir={folder}"
    )
    done = subprocess.run(
        [sys.executable, *command.split()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert '"curvature": "half_fisher"' in (folder / "summary.json").read_text()


def test_a_recorder_from_outside_runs(tmp_path: Path) -> None:
    """With a package in the place of wandb's that writes down what it is told."""
    mine = tmp_path / "mine"
    (mine / "recorders").mkdir(parents=True)
    (mine / "wandb_recorder.py").write_text(_block("class WandB"))
    (mine / "recorders" / "wandb.yaml").write_text(_block("wandb_recorder.WandB"))
    (mine / "wandb.py").write_text(
        "import pathlib\n"
        "class Run:\n"
        "    summary = {}\n"
        "    def log(self, record, step): print('logged', step)\n"
        "    def finish(self): print('ended', self.summary['status'])\n"
        "def init(project, config, dir): print('began', project, config['seed']); return Run()\n"
    )
    folder = tmp_path / "run"
    command = f"train.py --config-dir {mine} recorders=wandb max_steps=2 hydra.run.dir={folder}"
    done = subprocess.run(
        [sys.executable, *command.split()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith(("began", "log", "end"))]
    assert told == ["began curvature 0", "logged 1", "logged 2", "ended finished"]
