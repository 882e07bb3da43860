"""The folder of a launch, unique even for launches that start in the same second."""

import secrets
from datetime import datetime

from omegaconf import OmegaConf


def new_launch_id() -> str:
    """Date, time to the microsecond and a random part: one per launch."""
    return f"{datetime.now():%Y-%m-%d/%H-%M-%S-%f}-{secrets.token_hex(3)}"


def register_resolvers(launch_id: str) -> None:
    """Register `${run_folder:}` and `${sweep_folder:}` with OmegaConf, for one launch.

    The configuration is composed several times per launch, also in the processes of its jobs, to
    which Hydra passes the resolvers. In every composition they must give the same folder.
    """

    def run_folder(resume: str | None) -> str:
        return f"outputs/{launch_id}" if resume is None else str(resume)

    def sweep_folder() -> str:
        return f"multirun/{launch_id}"

    for resolver in (run_folder, sweep_folder):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, use_cache=True, replace=True)
