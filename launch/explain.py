"""Explains in one sentence why a command does not compose."""

import difflib
import re
from typing import Any, cast

from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException
from omegaconf import OmegaConf

from .composer import Composer


def explain(error: Exception, composer: Composer, overrides: list[str]) -> str:
    """The sentence for `error`, which composing `overrides` has raised.

    The reason is found by checks of the configuration, not from Hydra's message: that message has
    many lines and changes from release to release.
    """
    if isinstance(error, OverrideParseException):
        reason = error.message.splitlines()[0]
        return f"`{error.override}` is not of the form `key=value` ({reason})."
    parsed = composer.parse(overrides)
    choices = [override for override in parsed if composer.options(override.key_or_group)]
    for override in choices:
        for value in _values(override):
            options = composer.options(override.key_or_group)
            if not isinstance(value, list) and str(value) not in options:
                return _unknown_option(composer, override.key_or_group, value, options)
    known = _compose_leniently(composer, choices)
    if known is not None:
        keys = _flatten(known)
        for override in parsed:
            is_new = override.is_add() or override.is_force_add()
            if not (override in choices or is_new or override.key_or_group in keys):
                return _unknown_key(composer, known, override.key_or_group)
    return ": ".join(_first_line(part) for part in (error, error.__cause__) if str(part or ""))


def _values(override: Override) -> list:
    return list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]


def _first_line(error: object) -> str:
    return str(error).strip().splitlines()[0].rstrip(".:")


def _compose_leniently(composer: Composer, choices: list[Override]) -> dict[str, Any] | None:
    """The configuration of the chosen options alone, unresolved, or else of the default options.

    None if neither composes, because a file is at fault.
    """
    chosen = [f"{choice.get_key_element()}={_values(choice)[0]}" for choice in choices]
    for overrides in (chosen, []):
        try:
            composed = composer.compose(overrides)
            return cast(dict[str, Any], OmegaConf.to_container(composed, resolve=False))
        except Exception:
            continue
    return None


def _unknown_option(composer: Composer, group: str, value: object, options: list[str]) -> str:
    listed = ", ".join(options)
    default = _compose_leniently(composer, [])
    if isinstance(value, int | float) and not isinstance(value, bool) and default is not None:
        entries = default.get(group) or {}
        numbers = [key for key, entry in entries.items() if isinstance(entry, int | float)]
        if len(numbers) == 1:
            return (
                f"`{group}={value}`: `{group}=` chooses a policy ({listed}). To set the number, "
                f"write `{group}.{numbers[0]}={value}`."
            )
    close = difflib.get_close_matches(str(value), options, n=1)
    hint = f"did you mean `{group}={close[0]}`? " if close else ""
    shown = "null" if value is None else value
    # Sweepers and launchers are plugins, and some may not be installed.
    more = "; `pip install -e '.[sweeps]'` installs others" if group.startswith("hydra/") else ""
    return f"`{group}={shown}`: no such option; {hint}`{group}` is one of {listed}{more}."


def _unknown_key(composer: Composer, known: dict[str, Any], key: str) -> str:
    group, _, name = key.partition(".")
    having = [
        each for each in composer.options(group) if name in (composer.load(group, each) or {})
    ]
    if having:
        chosen = known["hydra"]["runtime"]["choices"].get(group)
        listed = " or ".join(f"`{group}={option}`" for option in having)
        return f"`{key}` is not a key of `{group}={chosen}`. Leave it out, or choose {listed}."
    keys = [each for each in _flatten(known) if not re.match(r"hydra\b|(.*\.)?_", each)]
    close = difflib.get_close_matches(key, keys, n=1)
    if close:
        return f"`{key}` is not a key of the configuration; did you mean `{close[0]}`?"
    group, _, _ = key.rpartition(".")
    siblings = [name for name in keys if group and name.startswith(f"{group}.")]
    listed = f"`{group}` has {', '.join(siblings)}" if siblings else "`--help` lists the keys"
    return f"`{key}` is not a key of the configuration; {listed}."


def _flatten(node: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for name, child in node.items():
        keys.append(f"{prefix}{name}")
        if isinstance(child, dict):
            keys.extend(_flatten(child, f"{prefix}{name}."))
    return keys
