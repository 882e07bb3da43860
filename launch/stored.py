"""Checks the names in the configuration of a run folder before anything in it is called.

A folder may come from somebody else, and a `_target_` is called when the run is built.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra

from .errors import ConfigError

PARTS = "curvature", "models", "data", "environments", "training"
PACKAGES = "optimistix", "optax", "lineax", "equinox"
GETTERS = "hydra.utils.get_method", "hydra.utils.get_class"
"""Targets that return the function named by `path`, such as an activation, and do not call it."""
OF_FUNCTIONS = "jax"


def check_names(stored: dict[str, Any], file: Path, folders: Sequence[Path]) -> None:
    """Raise for a name that is not from this project, `PACKAGES`, or one of the `folders`.

    **Arguments:** `stored`: the configuration; `file`: its file, for the error message; `folders`:
    those that the command line adds (`--config-dir`).

    **Raises:** `ConfigError`.
    """
    for target, path in _targets(stored):
        named, roots = target, (*PARTS, *PACKAGES)
        if target in GETTERS:
            named, roots = str(path), (*roots, OF_FUNCTIONS)
        if not _is_known(named, roots) and not _is_beside(named, folders):
            raise ConfigError(
                f"`{file}` names `{named}`, which is not called: it belongs neither to this "
                "project nor to the packages that its configurations use. If it is your own "
                "code, put it beside your configurations and add `--config-dir`."
            )


def _targets(node: Any) -> Iterator[tuple[str, Any]]:
    """Every `_target_`, with the `path` beside it."""
    if isinstance(node, list):
        for each in node:
            yield from _targets(each)
    elif isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"]), node.get("path")
        for each in node.values():
            yield from _targets(each)


def _is_known(name: str, roots: Sequence[str]) -> bool:
    if name.partition(".")[0] not in roots:
        return False
    try:
        found = hydra.utils.get_object(name)
    except Exception:  # a failed import or a missing name: building raises the error
        return True
    # A module's imports are attributes of the module, as in `models.math.exp`: so check the module
    # in which the object was defined.
    return str(getattr(found, "__module__", "")).partition(".")[0] in roots


def _is_beside(name: str, folders: Sequence[Path]) -> bool:
    try:
        spec = importlib.util.find_spec(name.partition(".")[0])
    except (ImportError, ValueError):
        return False
    if spec is None or spec.origin is None:
        return False
    return any(Path(spec.origin).resolve().is_relative_to(folder) for folder in folders)
