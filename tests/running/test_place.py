"""The place of a process among those of a run, from the environment variables of a launcher."""

import pytest

from running import HostsError, place

SLURM = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "1"}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "3",
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}
BY_HAND = {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1", "JAX_COORDINATOR_ADDRESS": "a:1"}


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        (SLURM, (4, 2, [1])),
        (OPEN_MPI, (3, 2, [0])),
        (BY_HAND, (2, 1, None)),
        (OPEN_MPI | SLURM, (3, 2, [0])),  # `mpirun` in a job of SLURM
        (SLURM | BY_HAND, (2, 1, None)),
        (SLURM | {"JAX_LOCAL_DEVICE_IDS": "0,1"}, (4, 2, None)),
        # A job of one task; and the script of a job with several tasks, which `srun` would start.
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None),
    ],
)
def test_the_environment_gives_the_place_of_a_process(environment, found):
    assert place(environment) == found


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "`JAX_NUM_PROCESSES` is set, but `JAX_PROCESS_ID` is not"),
        (
            BY_HAND | {"JAX_PROCESS_ID": "2"},
            "at least 0 and less than `JAX_NUM_PROCESSES`, 2, got 2",
        ),
        (BY_HAND | {"JAX_PROCESS_ID": "x"}, "`JAX_PROCESS_ID` must be an integer, got 'x'"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1"}, "is set, but the number of processes is not"),
        ({"JAX_PROCESS_ID": "1"}, "is set, but the number of processes is not"),
    ],
)
def test_incomplete_or_wrong_variables_are_refused(environment, sentence):
    with pytest.raises(HostsError, match=sentence):
        place(environment)
