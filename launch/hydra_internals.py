"""The undocumented parts of Hydra that we use, and why; everything else is its public API."""

import argparse

from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.types import TaskFunction


def command_line() -> argparse.ArgumentParser:
    """The parser of Hydra's command line.

    `hydra.main` reads `sys.argv`, makes the run folder, and only then calls us. We must parse the
    command before that, and a parser of our own would have to copy Hydra's flags.
    """
    return get_args_parser()


def run(name: str, task: TaskFunction, overrides: list[str], *, multirun: bool) -> None:
    """Let Hydra run the jobs as `hydra.main` does; called inside `hydra.initialize_config_dir`.

    If a sweeper or a launcher raises, `hydra.main` prints the traceback and exits with 1. These
    methods, which `hydra.main` calls, pass the exception on to us.
    """
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    (hydra.multirun if multirun else hydra.run)(name, task, overrides)
