"""Train a model, or a sweep of them: `python train.py --help` lists what can be chosen."""

import os
import sys

from launch.request import read
from running import ExitCode

if __name__ == "__main__":
    request = read(sys.argv[1:])
    if isinstance(request, ExitCode):
        sys.exit(request)

    # Here, because it imports JAX, which takes longer than the answer to a question.
    from launch.launcher import launch

    code = launch(request)
    if code == ExitCode.INTERRUPTED:
        # XLA's threads may still be compiling. Python would wait for them, and then crash.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
