"""The index of this process among the processes of a run, from the environment variables."""

from collections.abc import Mapping
from typing import NamedTuple


class Launcher(NamedTuple):
    """The environment variables by which a launcher identifies a process.

    - `processes`: the variable for the number of processes.
    - `mine`: the variable for the index of this process.
    - `local`: the variable for the index on the host; empty if the launcher sets none.
    """

    processes: str
    mine: str
    local: str


LAUNCHERS = (
    Launcher("JAX_NUM_PROCESSES", "JAX_PROCESS_ID", ""),
    Launcher("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
    # Only `srun` sets `SLURM_STEP_NUM_TASKS`: the script of `sbatch` is one process, however many
    # tasks it may start.
    Launcher("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID"),
)
ADDRESS = "JAX_COORDINATOR_ADDRESS"
DEVICES = "JAX_LOCAL_DEVICE_IDS"


class Place(NamedTuple):
    """The number of processes, the index of this one, its devices; None: all that JAX finds."""

    processes: int
    mine: int
    devices: list[int] | None


class HostsError(ValueError):
    """Processes that cannot work together; the message is one sentence."""


def place(environment: Mapping[str, str]) -> Place | None:
    """The place of this process; None if it is the only one.

    **Raises:** `HostsError` if the environment variables contradict each other.
    """
    for launcher in LAUNCHERS:
        if launcher.processes not in environment:
            continue
        if launcher.mine not in environment:
            raise HostsError(
                f"`{launcher.processes}` is set, but `{launcher.mine}` is not. Set both, or "
                "neither."
            )
        number = _integer(environment, launcher.processes)
        mine = _integer(environment, launcher.mine)
        if not 0 <= mine < number:
            raise HostsError(
                f"`{launcher.mine}` must be at least 0 and less than `{launcher.processes}`, "
                f"{number}, got {mine}."
            )
        if number == 1:
            return None
        # JAX's convention: each process of a host uses the one accelerator with its local index.
        if launcher.local not in environment or DEVICES in environment:
            return Place(number, mine, None)
        return Place(number, mine, [_integer(environment, launcher.local)])
    by_hand = LAUNCHERS[0]
    for name in (ADDRESS, by_hand.mine):
        if name in environment:
            raise HostsError(
                f"`{name}` is set, but the number of processes is not. Start the run by `srun` "
                f"or `mpirun`, or set `{by_hand.processes}`."
            )
    return None


def _integer(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise HostsError(f"`{name}` must be an integer, got {environment[name]!r}.") from None
