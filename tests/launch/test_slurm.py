"""The launcher for SLURM. Scripts replace SLURM's programs; they start all jobs at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sweep_table import rows

ROOT = Path(__file__).parents[2]
PROGRAMS = {
    "sbatch": f"""#!{sys.executable}
import os, re, subprocess, sys

last = re.search(r"--array=0-([0-9]+)", open(sys.argv[1]).read())[1]
for task in range(int(last) + 1):
    job = {{"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(task)}}
    command = ["bash", sys.argv[1]]
    # If the job kept the streams of this program open, the caller would wait for the job.
    streams = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    subprocess.Popen(command, env=os.environ | job, **streams)
print("Submitted batch job 7")
""",
    "srun": f"""#!{sys.executable}
import os, sys

command = sys.argv[sys.argv.index(sys.executable) :]
os.execv(command[0], command)
""",
    "sacct": "#!/bin/sh\nprintf 'JobID|State|NodeList\\n7_0|RUNNING|a\\n7_1|RUNNING|a\\n'\n",
    "scontrol": "#!/bin/sh\necho a\n",
}


@pytest.mark.slow
def test_a_sweep_by_slurm(tmp_path):
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "train.py"), "-m", "optimiser=sgd", "model=linear"),
            *("max_steps=2", "seed=0,1", "hydra.sweep.dir=sweep", "hydra/launcher=slurm"),
            *("hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=120"),
        ],
        cwd=tmp_path,
        env=os.environ | {"PATH": os.pathsep.join([str(tmp_path), os.environ["PATH"]])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [row["status"] for row in rows(done.stdout)] == ["finished", "finished"]
    (script,) = (tmp_path / "sweep" / ".submitit").glob("*/*_submission.sh")
    lines = script.read_text().splitlines()
    for option in ("array=0-1%2", "partition=gpu", "time=120", "signal=USR2@120"):
        assert f"#SBATCH --{option}" in lines
