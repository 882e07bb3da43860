import importlib.metadata
import os
import platform
from typing import Any

import jax

_PACKAGES = ("jax", "jaxlib", "equinox", "lineax", "optimistix", "optax", "curvature")


def describe() -> dict[str, Any]:
    """What a figure was measured on: processor, cores in use, device, versions."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()
