"""The command line, read by Hydra's own parser."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from .errors import ConfigError

QUESTIONS = ("help", "hydra_help", "cfg", "info", "shell_completion", "experimental_rerun")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the arguments as `hydra.main` will.

    **Raises:** `ConfigError` where Hydra would print its usage and leave.
    """
    parser = get_args_parser()
    parser.add_argument("--quiet", "-q", action="store_true")
    parser.error = _refuse
    command = parser.parse_args(arguments)
    modes = [name for name in ("run", "multirun", *QUESTIONS) if getattr(command, name)]
    if len(modes) > 1:
        _refuse(f"--{modes[0]} and --{modes[1]} exclude each other")
    return command


def without_quiet(arguments: Sequence[str]) -> list[str]:
    """The arguments with `quiet=true` in the place of `-q`, which Hydra does not know."""
    command = parse(arguments)
    if not command.quiet:
        return list(arguments)
    kept = [argument for argument in arguments if argument not in ("-q", "--quiet")]
    # Beside the other overrides, because the parser wants all of them together.
    at = kept.index(command.overrides[0]) if command.overrides else len(kept)
    return [*kept[:at], "quiet=true", *kept[at:]]


def is_question(command: argparse.Namespace) -> bool:
    """Whether the command asks Hydra something (`--help`, `--cfg job`) instead of training."""
    return any(getattr(command, name) for name in QUESTIONS)


def asks(arguments: Sequence[str]) -> bool:
    """Whether they are a question; what is not understood is none."""
    try:
        return is_question(parse(arguments))
    except ConfigError:
        return False


def wants_debug(arguments: Sequence[str]) -> bool:
    """Whether tracebacks are asked for; known before anything is parsed."""
    return "debug=true" in [argument.lower() for argument in arguments]


def make_importable(command: argparse.Namespace) -> None:
    """Let the files beside an added configuration folder be named in its `_target_`'s.

    At the end of the path: the folder has a group called `curvature`, and must not shadow the
    package of that name.
    """
    if command.config_dir is not None:
        folder = str(Path(command.config_dir).resolve())
        if folder not in sys.path:
            sys.path.append(folder)


def _refuse(message: str) -> NoReturn:
    raise ConfigError(
        f"The command line was not understood: {message}. Overrides are written `key=value`, all "
        "of them together, before or after the flags; `--help` lists them."
    )
