"""From a plain configuration to an object; where that fails, why, in one sentence."""

import re
from typing import Any

import hydra
from hydra.errors import InstantiationException

from .errors import ConfigError, sentence

_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")
_MISSING = re.compile(r"missing (?:a required argument: |.*?arguments?: )(.*)")
_TARGET = re.compile(r"target '([\w.]+)'")
_FULL_KEY = re.compile(r"full_key: ([\w.]+)")
# Inside the optimiser these hang as they were wired; people write them at the top.
_GROUPS = ("objective", "likelihood", "curvature", "solver", "damping", "search")


def instantiate(config: dict[str, Any]) -> Any:
    """Build the object that a plain, resolved configuration names; lists stay plain lists.

    Every `_target_` of the project passes through here.

    **Raises:** `ConfigError` with the reason in one sentence.
    """
    try:
        return hydra.utils.instantiate(config, _convert_="all")
    except InstantiationException as error:
        raise ConfigError(why_not(error)) from error


def why_not(error: InstantiationException) -> str:
    """The sentence for `error`; a constructor's own `ValueError` speaks for itself."""
    cause = _root(error)
    target = _found(_TARGET, str(error)) or "its target"
    key = _as_written(_found(_FULL_KEY, str(error)) or "")
    if isinstance(cause, ImportError) or "locating target" in str(error):
        return f"`{key}`: `{target}` cannot be imported: {sentence(cause)}"
    if isinstance(cause, TypeError):
        if argument := _found(_UNEXPECTED, str(cause)):
            return f"`{key}.{argument}` is not an argument of `{target}`."
        if arguments := _found(_MISSING, str(cause)):
            return f"`{key}`: `{target}` needs {arguments}, which is not given."
        return f"`{key}`: `{target}` cannot be built: {cause}"
    return sentence(cause)


def _root(error: BaseException) -> BaseException:
    return error if error.__cause__ is None else _root(error.__cause__)


def _found(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(text)
    return match.group(1) if match else None


def _as_written(path: str) -> str:
    parts = path.split(".")
    starts = [index for index, part in enumerate(parts) if part in _GROUPS]
    return ".".join(parts[starts[-1] :]) if starts else path
