"""Finds overrides that no run uses, by following the references in the configuration."""

import dataclasses
import re
from collections.abc import Iterable

from omegaconf import DictConfig, OmegaConf

from running import Settings

from .composer import Composer, Composition
from .errors import ConfigError

ROOTS = (
    *(field.name for field in dataclasses.fields(Settings)),
    *("model", "dataset", "optimiser", "average"),
    *("recorders", "experiment", "x64", "debug", "resume", "compilation_cache", "vectorised"),
)
"""The keys that the program reads; any other key is used only if one of these refers to it."""

OPTIONAL = ("experiment", "average", "recorders")
"""The keys of `ROOTS` that may be missing; a missing key means: none."""

# An absolute or relative reference, `${a.b}` or `${..b}`; inside a resolver's call, too.
_REFERENCE = re.compile(r"\$\{(\.*)([^\s${}:]*)\}")


def used_paths(config: DictConfig) -> set[str]:
    """The paths that a run reads, each including everything below it.

    These are the roots, the paths to which their interpolations refer, and so on.
    """
    raw = OmegaConf.to_container(config, resolve=False)
    paths: set[str] = set()
    waiting = list(ROOTS)
    while waiting:
        path = waiting.pop()
        if path not in paths:
            paths.add(path)
            waiting.extend(_references(_at(raw, path), path))
    return paths


def is_used(path: str, paths: Iterable[str]) -> bool:
    """Whether `path` is, contains, or lies below one of the `paths` that are read."""
    return any(
        path == read or path.startswith(f"{read}.") or read.startswith(f"{path}.") for read in paths
    )


def refuse_unused(composition: Composition, composer: Composer) -> None:
    """Refuse an override that no job uses, and a swept override that some job ignores.

    **Raises:** `ConfigError`.
    """
    read = [used_paths(job) for job in composition.jobs]
    for override in composition.overrides:
        if override.is_hydra_override():
            continue
        path = (override.package or override.key_or_group).replace("/", ".")
        ignoring = [
            job for job, paths in zip(composition.jobs, read, strict=True)
            if not is_used(path, paths)
        ]  # fmt: skip
        if len(ignoring) == len(composition.jobs):
            reason = _explain_unused(path, ignoring[0], composer)
            raise ConfigError(f"`{override.input_line}` is not used by {reason}.")
        if ignoring and override.is_sweep_override():
            reason = _explain_unused(path, ignoring[0], composer)
            raise ConfigError(
                f"`{override.input_line}` is swept but not used by {reason}: those jobs would "
                "run once for each value. Sweep them separately."
            )


def _references(value: object, path: str) -> list[str]:
    if isinstance(value, dict | list):
        # For a relative reference, a list counts as one level, like a mapping.
        items = value.items() if isinstance(value, dict) else enumerate(value)
        found = [_references(child, f"{path}.{name}") for name, child in items]
        return [reference for references in found for reference in references]
    if not isinstance(value, str):
        return []
    references = []
    for dots, name in _REFERENCE.findall(value):
        parents = path.split(".")[: -len(dots)] if dots else []
        references.append(".".join([*parents, name]))
    return references


def _at(raw: object, path: str) -> object:
    for name in path.split("."):
        raw = raw.get(name) if isinstance(raw, dict) else None
    return raw


def _explain_unused(path: str, job: DictConfig, composer: Composer) -> str:
    """The choice because of which `job` does not use `path`, and a choice that would use it."""
    read = used_paths(job)
    for group, option in job.hydra.runtime.choices.items():
        if option is None or group.startswith("hydra/"):
            continue
        readers = [
            other
            for other in composer.options(group)
            if is_used(path, _references(composer.load(group, other), group))
        ]
        if option in readers:
            return _explain_unused(group, job, composer)
        if readers and is_used(group, read):
            default = composer.default(group)
            shown = default if default in readers else readers[0]
            return f"`{group}={option}` (`{group}={shown}` would use it)"
    return "anything"
