"""Train a model, or a sweep of them: `python train.py --help` lists what can be chosen."""

import sys

from launch.request import read
from running import ExitCode

if __name__ == "__main__":
    request = read(sys.argv[1:])
    if isinstance(request, ExitCode):
        sys.exit(request)

    # Here, because it imports JAX, which takes longer than the answer to a question.
    from launch.launcher import launch

    sys.exit(launch(request))
