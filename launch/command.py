"""Parses the command line with Hydra's own parser."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from .errors import ConfigError
from .hydra_internals import command_line

QUESTIONS = ("help", "hydra_help", "cfg", "info", "shell_completion")
QUIET = "-q", "--quiet"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the arguments as `hydra.main` does; `-q` becomes the override `quiet=true`.

    **Raises:** `ConfigError` where Hydra would print its usage and exit.
    """
    parser = command_line()
    parser.add_argument(*QUIET, action="store_true")
    parser.error = _refuse
    command = parser.parse_args(arguments)
    command.overrides = [quote(override) for override in command.overrides]
    modes = [name for name in ("run", "multirun", *QUESTIONS) if getattr(command, name)]
    if len(modes) > 1:
        _refuse(f"--{modes[0]} and --{modes[1]} exclude each other")
    if command.experimental_rerun:
        raise ConfigError(
            "`--experimental-rerun` is not supported: `resume=FOLDER` continues a run."
        )
    if command.config_dir is not None and not Path(command.config_dir).is_dir():
        raise ConfigError(f"`--config-dir` must be a folder, got `{command.config_dir}`.")
    searched = [each for each in command.overrides if each.startswith("hydra.searchpath=")]
    if command.config_dir is not None and searched:
        raise ConfigError(f"`--config-dir` and `{searched[0]}` exclude each other.")
    if command.quiet:
        command.overrides.append("quiet=true")
    return command


def quote(override: str) -> str:
    """`key=value` with the value in quotes where it is a text beyond ASCII, such as a path.

    Hydra's grammar has letters beyond ASCII in quotes alone. Lists, mappings and sweeps, which have
    a grammar inside, are left as they are.
    """
    key, equals, value = override.partition("=")
    if value.isascii() or any(mark in value for mark in "'\"[]{}(),"):
        return override
    return f"{key}{equals}'{value}'"


def is_question(command: argparse.Namespace) -> bool:
    """Whether the command only asks Hydra a question (`--help`, `--cfg job`)."""
    return any(getattr(command, name) for name in QUESTIONS)


def wants_debug(arguments: Sequence[str]) -> bool:
    """Whether `debug=true` is given; read from the raw arguments, as parsing may fail."""
    return "debug=true" in [argument.lower() for argument in arguments]


def make_importable(command: argparse.Namespace) -> None:
    """Make the Python files in the folder of `--config-dir` importable for its `_target_`s.

    The folder is appended at the end of `sys.path`: it may contain a group called `curvature`,
    which must not shadow the package of that name.
    """
    if command.config_dir is not None:
        folder = str(Path(command.config_dir).resolve())
        if folder not in sys.path:
            sys.path.append(folder)


def _refuse(message: str) -> NoReturn:
    raise ConfigError(
        f"Cannot parse the command line: {message}. Write overrides as `key=value`, all of them "
        "together, before or after the flags; `--help` lists them."
    )
