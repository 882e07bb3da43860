"""Checkpoints: everything that is needed to continue a run as if it had never stopped.

The batches and keys of later steps are not saved: they are functions of (seed, step). For the
format of the files see `checkpoint_file`.

A file is written after the folder of its arrays, if it has one, so a file never names an incomplete
folder. Only the first process writes and checks the files. All processes call `hold_best`, `save`,
`save_best` and `restore` together.
"""

import contextlib
import dataclasses
import functools
import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from jaxtyping import Array

from running.files import CONFIG
from running.settings import UNCHECKED

from . import hosts
from ._base import Tally
from .atomic import remove_leftovers, write_atomically
from .checkpoint_file import CheckpointError, Header, opened, read_line, write
from .digest import digest_of_config
from .leaves import read_leaves, write_leaves
from .sharded import (
    HostCopy,
    copy_to_devices,
    copy_to_host,
    digests,
    is_sharded,
    layout,
    read_arrays,
    write_arrays,
)
from .stepper import Stepper

ARRAYS = ".arrays"
"""The suffix of folders of arrays."""
BEST = "best.ckpt"
BEST_MODEL = "best.eqx"
"""The file with only the weights of the best checkpoint, in the format of `model.eqx`."""


_OTHER_ARRAYS = (
    "The arrays in the checkpoint `{}` do not match those of the model and the optimiser."
)


class Restored(NamedTuple):
    """Where a run continues.

    - `tally`: of the checkpoint that was read; a new one if there is no checkpoint.
    - `versions`: of the packages that wrote the checkpoint; empty if there is none.
    - `refused`: a sentence for each newer file that could not be used.
    """

    tally: Tally
    versions: dict[str, str]
    refused: list[str]


class _Read(NamedTuple):
    """A checkpoint file that was read and passed all checks.

    - `path`, `header`: of the file.
    - `leaves`: the carried arrays, or the folder that contains them.
    """

    path: Path
    header: Header
    leaves: list[Any] | Path


class _Best(NamedTuple):
    """The best state so far, in memory.

    - `state`: the bytes of its checkpoint file; if the arrays are sharded, the tally and copies of
      the shards.
    - `weights`: the bytes of its file of weights.
    """

    state: bytes | tuple[Tally, list[HostCopy]]
    weights: bytes


class Checkpoints:
    """The checkpoints of a run folder: the newest few, and the best.

    **Arguments:**

    - `folder`: of the checkpoints; created when the first is saved.
    - `config`: the run's configuration.
    - `versions`: of the packages that affect results; written to each checkpoint.
    - `keep`: how many of the newest checkpoints are kept.
    """

    def __init__(
        self, folder: Path, config: Mapping[str, Any], versions: dict[str, str], keep: int
    ):
        self._folder, self._versions, self._keep = folder, versions, keep
        self._config = _digest(config)
        self._best: _Best | None = None

    def hold_best(self, tally: Tally, stepper: Stepper) -> None:
        """Keep this state in memory as the best so far; `save` writes it.

        Writing it here would cost a run that improves at every epoch one synchronisation with the
        disk per epoch.
        """
        state, weights, leaves = io.BytesIO(), io.BytesIO(), stepper.leaves
        model = stepper.whole
        if hosts.is_first():
            write_leaves(weights, model)
        if is_sharded(leaves):
            # `replace` makes a copy: the run goes on counting in `tally`.
            held = dataclasses.replace(tally), copy_to_host(leaves)
            self._best = _Best(held, weights.getvalue())
        elif hosts.is_first():
            write(state, self._header(tally), leaves)
            self._best = _Best(state.getvalue(), weights.getvalue())

    def save(self, tally: Tally, stepper: Stepper) -> None:
        """Write a checkpoint, and the best one if there is a new one; then remove older ones."""
        # The best state first: the tally of the checkpoint names it, so it must be on disk by then.
        self.save_best()
        if hosts.is_first():
            self._folder.mkdir(exist_ok=True)
        self._save(f"step_{tally.steps:09d}.ckpt", tally, stepper.leaves)
        if hosts.is_first():
            for file in _newest_first(self._folder)[self._keep :]:
                file.unlink()
            self._remove_folders()

    def save_best(self) -> None:
        """Write the best state, if there is a new one."""
        if self._best is None:
            return
        if hosts.is_first():
            self._folder.mkdir(exist_ok=True)
        self._save_best(self._best)
        self._best = None

    def restore(self, stepper: Stepper) -> Restored:
        """Set `stepper` to the newest checkpoint that is intact and belongs to this run.

        If there is no checkpoint at all, `stepper` is left unchanged. Newer files that are refused
        are renamed to end in `.refused`. Half-written files of a killed process are removed.

        **Raises:** `CheckpointError` if there are checkpoints, and none can be used.
        """
        refused: dict[Path, str] = {}
        # Only the first process checks and renames files; the other processes read its choice.
        newest = hosts.call_on_all(
            lambda: self._read_newest(stepper, refused) if hosts.is_first() else None
        )
        name = hosts.broadcast(None if newest is None else newest.path.name)
        if name is None:
            return Restored(Tally(), {}, [])
        if newest is None:
            newest = self._read(self._folder / name, stepper)
        leaves = newest.leaves
        if isinstance(leaves, Path):
            leaves = read_arrays(leaves, stepper.leaves)
        stepper.replace(leaves)
        return Restored(newest.header.tally, newest.header.versions, list(refused.values()))

    def _read_newest(self, stepper: Stepper, refused: dict[Path, str]) -> _Read | None:
        """Read the newest usable file; newer files that cannot be used are added to `refused`."""
        remove_leftovers(self._folder)
        for path in _candidates(self._folder):
            try:
                found = self._read(path, stepper)
            except CheckpointError as error:
                refused[path] = str(error)
                continue
            for bad in refused:
                bad.rename(bad.with_name(f"{bad.name}.refused"))
            return found
        if refused:
            raise CheckpointError(
                f"{' '.join(refused.values())} There is no other checkpoint. Remove "
                f"`{self._folder}` to start again from step 0."
            )
        return None

    def _save_best(self, best: _Best) -> None:
        if isinstance(best.state, tuple):
            tally, held = best.state
            self._save(BEST, tally, copy_to_devices(held))
        elif hosts.is_first():
            write_atomically(self._folder / BEST, functools.partial(_write_bytes, best.state))
        if hosts.is_first():
            write_atomically(
                self._folder / BEST_MODEL, functools.partial(_write_bytes, best.weights)
            )

    def _save(self, name: str, tally: Tally, leaves: list[Array]) -> None:
        path, arrays = self._folder / name, None
        if is_sharded(leaves):
            folder = f"{path.stem.partition('_')[0]}_{tally.steps:09d}{ARRAYS}"
            files = write_arrays(self._folder / folder, leaves)
            arrays = {"folder": folder, "files": files, "layout": layout(leaves)}
        if hosts.is_first():
            header = self._header(tally, arrays)
            write_atomically(path, lambda file: write(file, header, leaves))

    def _header(self, tally: Tally, arrays: dict[str, Any] | None = None) -> Header:
        return Header(tally, self._config, self._versions, arrays)

    def _read(self, path: Path, stepper: Stepper) -> _Read:
        """Read and check a file.

        **Raises:** `CheckpointError` with the reason why it is refused.
        """
        with opened(path) as (header, file):
            if header.config != self._config:
                raise CheckpointError(
                    f"The checkpoint `{path}` belongs to a run with another configuration."
                )
            if header.arrays is not None:
                folder = self._checked_folder(path, header.arrays, stepper.leaves)
                return _Read(path, header, folder)
            try:
                leaves = read_leaves(file, stepper.leaves)
            except (RuntimeError, ValueError, TypeError, EOFError) as error:
                raise CheckpointError(_OTHER_ARRAYS.format(path)) from error
        return _Read(path, header, leaves)

    def _checked_folder(self, path: Path, arrays: dict[str, Any], like: list[Array]) -> Path:
        folder = self._folder / arrays["folder"]
        if arrays["layout"] != layout(like):
            raise CheckpointError(_OTHER_ARRAYS.format(path))
        if hosts.is_first() and digests(folder) != arrays["files"]:
            raise CheckpointError(
                f"The checkpoint `{path}` is damaged: the files in `{folder}` do not match those "
                "that were written."
            )
        return folder

    def _remove_folders(self) -> None:
        """Remove folders of arrays that no checkpoint names, such as those of killed processes."""
        folders = list(self._folder.glob(f"*{ARRAYS}*"))
        if not folders:
            return
        named = set()
        for path in _candidates(self._folder):
            with contextlib.suppress(CheckpointError):
                named.add((read_line(path).get("arrays") or {}).get("folder"))
        for folder in folders:
            if folder.name not in named:
                shutil.rmtree(folder)


def check_checkpoints(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a folder in which every checkpoint that can be read has another configuration.

    This check needs neither a model nor an optimiser.

    **Raises:** `CheckpointError`.
    """
    found, digest = set[str](), _digest(config)
    for path in _candidates(folder):
        # `Checkpoints.restore` explains what cannot be read. Another process may remove a file.
        with contextlib.suppress(CheckpointError, OSError):
            found.add(str(read_line(path).get("config")))
    if found and digest not in found:
        raise CheckpointError(
            f"`{folder.parent / CONFIG}` has changed since the checkpoints were written. Undo the "
            f"change, or remove `{folder}` to start again from step 0."
        )


def _digest(config: Mapping[str, Any]) -> str:
    return digest_of_config(config, without=UNCHECKED)


def _candidates(folder: Path) -> list[Path]:
    """The files to try: the newest first, and last the best one, which is often the oldest."""
    return [*_newest_first(folder), *folder.glob(BEST)]


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*.ckpt"), reverse=True)


def _write_bytes(data: bytes, file: BinaryIO) -> None:
    file.write(data)
