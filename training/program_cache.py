"""JAX's cache of compiled programs on disk: a second start of a command compiles nothing."""

import functools
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import platformdirs
from jax.experimental.compilation_cache import compilation_cache

AUTO = "auto"
VARIABLE = "JAX_COMPILATION_CACHE_DIR"
# By default JAX caches only programs that took a second to compile. Many of a run take less.
OPTIONS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def use_cache(setting: Any) -> None:
    """Cache compiled programs in the folder that the key `compilation_cache` asks for.

    Options of JAX that are set in the environment are left unchanged. A folder that cannot be
    written to is reported on stderr; then there is no cache.

    **Arguments:** `setting`: a folder; None for no folder; `auto` for the folder that
    `JAX_COMPILATION_CACHE_DIR` names, or else for one in the user's cache.

    **Raises:** `ValueError` for anything else.
    """
    if setting is not None and (not isinstance(setting, str) or not setting):
        raise ValueError(
            f"`compilation_cache` must be auto, null or the name of a folder, got {setting!r}."
        )
    for name, value in OPTIONS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    folder = _folder(setting)
    # JAX reads this option once per process, and the jobs of a sweep share one process.
    if folder != jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", folder)
        compilation_cache.reset_cache()


def _folder(setting: str | None) -> str | None:
    if setting is None:
        return None
    if setting == AUTO:
        named = os.environ.get(VARIABLE)
        return named or _writable(platformdirs.user_cache_path("curvature") / "jax")
    return _writable(Path(setting).expanduser().absolute())


@functools.cache
def _writable(folder: Path) -> str | None:
    """The folder, made if it is missing; None where no file can be made in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return str(folder)
    except OSError as error:
        print(
            f"Compiled programs are not cached: cannot write to `{folder}` ({error.strerror}). "
            "Set `compilation_cache=FOLDER` to another folder.",
            file=sys.stderr,
        )
        return None
