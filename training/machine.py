"""The machine, the package versions and the state of the code of a run."""

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "equinox", "lineax", "optimistix", "optax", "numpy", "curvature")


def describe() -> dict[str, Any]:
    """The processor, the cores available to this process, the device, and the versions."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "device": jax.local_devices()[0].device_kind,
        "python": platform.python_version(),
        "versions": versions(),
    }


@functools.cache
def versions() -> dict[str, str]:
    """The versions of the packages that can affect the results of a run."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def versions_in_one_line(about: dict[str, Any]) -> str:
    """The packages of what `describe` returned and their versions, for a page of results."""
    return ", ".join(f"{name} {version}" for name, version in about["versions"].items())


@functools.cache
def git_state() -> dict[str, Any] | None:
    """The commit of the code, and whether its files differ from it; None outside a repository.

    Cached: the process runs the code of its start, so later changes on disk do not count.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "changed": bool(_git("status", "--porcelain"))}


def _git(*arguments: str) -> str | None:
    folder = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            # Without locks: `git status` would write the index of the user's repository.
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()
