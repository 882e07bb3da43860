"""Where a launch writes: a folder of its own, even beside one started in the same second."""

import functools
import secrets
from datetime import datetime

from omegaconf import OmegaConf


@functools.cache
def launch_id() -> str:
    """Date, time to the microsecond and a random part: one per launch, made when first asked for.

    The configuration is composed more than once per launch, and every time must name the same
    folder; `launch_id.cache_clear()` begins another launch in the same process.
    """
    return f"{datetime.now():%Y-%m-%d/%H-%M-%S-%f}-{secrets.token_hex(3)}"


def register_resolvers() -> None:
    """Make `${run_folder:}` and `${sweep_folder:}` known to OmegaConf."""
    OmegaConf.register_new_resolver("run_folder", _run_folder, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("sweep_folder", _sweep_folder, use_cache=True, replace=True)


def _run_folder(resume: str | None) -> str:
    return f"outputs/{launch_id()}" if resume is None else str(resume)


def _sweep_folder() -> str:
    return f"multirun/{launch_id()}"
