"""Parses a command and answers it, refuses it, or returns it to be run; does not import JAX."""

import dataclasses
import os
import sys
from collections.abc import Sequence

import hydra

from running import ExitCode, place, show

from . import command as command_line
from .composer import CONFIG_NAME, CONFIG_PATH, VERSION_BASE, Composer, Composition
from .errors import ConfigError
from .explain import explain
from .folders import new_launch_id, register_resolvers
from .unused import refuse_unused


@dataclasses.dataclass(frozen=True)
class Request:
    """A valid command.

    **Arguments:**

    - `composer`, `composition`, `overrides`: what to run.
    - `debug`: whether tracebacks are to be shown.
    """

    composer: Composer
    composition: Composition
    overrides: list[str]
    debug: bool


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Why a command is refused, with several processes: they report it together, only once."""

    error: Exception
    debug: bool


def read(arguments: Sequence[str]) -> Request | Refusal | ExitCode:
    """Parse the command line, `sys.argv[1:]`.

    Answers questions (`--help`, `--cfg job`). Refuses unknown options and keys, and overrides that
    no job would use.

    **Returns:** the exit code if the command is answered or refused; otherwise what to run.
    """
    debug = command_line.wants_debug(arguments)
    try:
        command = command_line.parse(arguments)
        command_line.make_importable(command)
        if command_line.is_question(command) and not command.cfg:
            return _answer_by_hydra(arguments)
        composer = Composer(command)
        composition = _compose(composer, command.overrides, multirun=command.multirun)
        if command.cfg:  # after composing, so that an error is explained in one sentence
            return _answer_by_hydra(arguments)
        refuse_unused(composition, composer)
        return Request(composer, composition, command.overrides, debug)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:
        if _is_one_of_several():
            return Refusal(error, debug)
        show(error, debug=debug)
        return ExitCode.BAD_CONFIGURATION


def _compose(composer: Composer, overrides: list[str], *, multirun: bool) -> Composition:
    try:
        return composer.composition(overrides, multirun=multirun)
    except ConfigError:
        raise
    except Exception as error:  # Hydra raises its own kinds, OmegaConf's, YAML's and built-in ones
        raise ConfigError(explain(error, composer, overrides)) from error


def _answer_by_hydra(arguments: Sequence[str]) -> ExitCode:
    """Let Hydra answer; it reads `sys.argv` itself, and has no flag `-q`."""
    known = [argument for argument in arguments if argument not in command_line.QUIET]
    sys.argv[1:] = map(command_line.quote, known)
    register_resolvers(new_launch_id())
    hydra.main(str(CONFIG_PATH), CONFIG_NAME, VERSION_BASE)(lambda config: None)()
    return ExitCode.FINISHED


def _is_one_of_several() -> bool:
    try:
        return place(os.environ) is not None
    except ValueError:  # `hosts.join` will raise it again
        return True
