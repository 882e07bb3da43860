import os
import signal

import pytest
from joblib.externals.loky.backend.process import LokyProcess

from running.processes import Stopped, run_processes


def test_a_stop_signal_is_passed_on_to_the_running_processes():
    processes = [
        LokyProcess(target=os.kill, args=(os.getpid(), signal.SIGTERM)),
        LokyProcess(target=signal.pause),
        LokyProcess(target=signal.pause),
    ]
    with pytest.raises(Stopped) as stopped:
        run_processes(processes, at_once=2)
    assert stopped.value.code == 75
    assert processes[1].exitcode == -signal.SIGTERM
    assert processes[2].pid is None
