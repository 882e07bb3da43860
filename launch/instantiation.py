"""Builds an object from a plain configuration; a failure is explained in one sentence."""

import functools
import logging
import re
from collections.abc import Mapping
from typing import Any, cast

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from running import sentence

from .composer import BASIC, CONFIG_PATH
from .errors import ConfigError

_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")
_MISSING = re.compile(r"missing .*?argument[s:]*:? (.*)")
_FULL_KEY = re.compile(r"full_key: ([\w.]+)")
# In the composed configuration these groups are nested in the optimiser, and the optimiser may be
# nested in an average. Users write their keys at the top level.
_GROUPS = [folder.name for folder in CONFIG_PATH.iterdir() if folder.is_dir()]


def instantiate(key: str, config: dict[str, Any], wired: Mapping[str, str] | None = None) -> Any:
    """Build the object that a plain, resolved configuration names; lists stay plain lists.

    Every `_target_` of the project passes through here.

    **Arguments:**

    - `key`: the key of the configuration, for the error message.
    - `config`: what to build.
    - `wired`: maps the key where a part is nested to the key that users write, such as
        `{"curvature.of": "curvature"}`; the longest first.

    **Raises:** `ConfigError` with the reason in one sentence.
    """
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # Hydra logs what it also raises
    try:
        return hydra.utils.instantiate({key: config}, _convert_="all")[key]
    except InstantiationException as error:
        path = _FULL_KEY.search(str(error))
        full_key = path.group(1) if path else key
        cause = _root(error)
        within = full_key.removeprefix(key).split(".")[1:]
        part = functools.reduce(lambda node, name: node[name], within, config)
        raise ConfigError(failure_sentence(full_key, part, cause, wired)) from error


def check_plugins(composed: DictConfig) -> None:
    """Check that Hydra will be able to make the sweeper and the launcher of a sweep.

    **Arguments:** `composed`: the configuration of one of its jobs.

    **Raises:** `ConfigError` if one of them cannot be made.
    """
    for kind in ("sweeper", "launcher"):
        choice = composed.hydra.runtime.choices[f"hydra/{kind}"]
        if choice == BASIC:
            continue  # Hydra's own sweeper or launcher
        config = composed.hydra[kind]
        try:
            hydra.utils.instantiate(config)
        except Exception as error:  # Hydra raises its own kinds and built-in ones
            cause = _root(error)
            if isinstance(cause, ImportError):
                raise ConfigError(
                    f"`hydra/{kind}={choice}` needs a package that is not installed ({cause}). "
                    "Run `pip install -e '.[sweeps]'`."
                ) from error
            plain = cast(dict[str, Any], OmegaConf.to_container(config))
            raise ConfigError(failure_sentence(f"hydra.{kind}", plain, cause)) from error


def failure_sentence(
    key: str,
    config: dict[str, Any],
    cause: BaseException,
    wired: Mapping[str, str] | None = None,
) -> str:
    """The sentence for `cause`, which building `config` at `key` has raised; `wired` as above.

    A cause with one of the project's own sentences, recognised by its backticks, is shown as it is.
    """
    written = _source_key(key, wired or {})
    if isinstance(cause, TypeError):
        if argument := _UNEXPECTED.search(str(cause)):
            return f"`{written}.{argument[1]}` is not an argument of `{config['_target_']}`."
        if arguments := _MISSING.search(str(cause)):
            return f"`{written}`: `{config['_target_']}` needs {arguments[1]}, which is not given."
    if isinstance(cause, ImportError):
        return f"`{written}`: `{config['_target_']}` cannot be imported: {cause}."
    if "`" in str(cause):
        return sentence(cause)
    values = [
        f"{name}={value!r}"
        for name, value in config.items()
        if not name.startswith("_") and not isinstance(value, dict)
    ]
    given = f" from {', '.join(values)}" if values else ""
    reason = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
    return f"`{written}` (`{config['_target_']}`) cannot be built{given}: {reason}"


def _root(error: BaseException) -> BaseException:
    """The exception behind `error`: one with a sentence of the project, or else the first cause."""
    own = "`" in str(error) and not isinstance(error, InstantiationException)
    return error if own or error.__cause__ is None else _root(error.__cause__)


def _source_key(path: str, wired: Mapping[str, str]) -> str:
    parts = path.split(".")
    starts = [index for index, part in enumerate(parts) if part in _GROUPS]
    written = ".".join(parts[starts[-1] :]) if starts else path
    for place, key in wired.items():
        if f"{written}.".startswith(f"{place}."):
            return key + written.removeprefix(place)
    return written
