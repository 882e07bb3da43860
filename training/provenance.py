"""`provenance.json`: how a run was started; written before its first step."""

import datetime
import json
import os
import sys
from pathlib import Path
from typing import Any

from .atomic import write_atomically
from .machine import describe, git_state

PROVENANCE = "provenance.json"


def write_provenance(folder: Path) -> None:
    """Write the command, the time, the machine and versions, the code's state, the SLURM job."""
    found = {
        "command": sys.argv,
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "process": os.getpid(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        **collect_provenance(),
    }
    text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / PROVENANCE, lambda file: file.write(text.encode()))


def collect_provenance() -> dict[str, Any]:
    """The machine, its versions, and the state of the code."""
    return {"machine": describe(), "git": git_state()}


def is_restart(folder: Path) -> bool:
    """Whether the scheduler has restarted the job whose run is in `folder`.

    A job that SLURM requeues keeps its id, and `SLURM_RESTART_COUNT` counts its restarts.
    """
    job, restarts = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_RESTART_COUNT", "0")
    if job is None or restarts in ("", "0"):
        return False
    try:
        return json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))["slurm_job"] == job
    except (OSError, ValueError, KeyError, TypeError):
        return False
