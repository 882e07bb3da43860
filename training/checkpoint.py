"""Checkpoints: what is needed to continue a run as if it had never stopped.

A file is one line of JSON (the `Tally`, the digest of the run's configuration and the versions
that wrote it), the carried arrays of the step in `equinox`'s format, and 64 hexadecimal digits, the
SHA-256 of all before them. Reading one runs no code from it. The batches and the keys of the steps
to come need no saving: they are functions of (seed, step).
"""

import dataclasses
import functools
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from ._base import Tally
from .atomic import remove_leftovers, write_atomically
from .digest import DigestWriter, digest_of_file
from .leaves import read_leaves, write_leaves
from .stepper import Stepper

DIGEST_LENGTH = 64
BEST = "best.ckpt"
BEST_MODEL = "best.eqx"
"""The weights of the best checkpoint alone, as `model.eqx` holds the final ones."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, in one sentence."""


class Restored(NamedTuple):
    """Where a run continues.

    - `tally`: of the checkpoint that was read; empty at the beginning.
    - `versions`: what wrote it; empty at the beginning.
    - `refused`: a sentence for each newer file that could not be used.
    """

    tally: Tally
    versions: dict[str, str]
    refused: list[str]


class Checkpoints:
    """The checkpoints of a run folder: the newest few, and the best.

    **Arguments:**

    - `folder`: theirs; made when the first is saved.
    - `config`: the digest of the configuration that they belong to.
    - `versions`: of the packages that matter, written with each.
    - `keep`: how many of the newest are kept.
    """

    def __init__(self, folder: Path, config: str, versions: dict[str, str], keep: int):
        self._folder, self._config, self._versions, self._keep = folder, config, versions, keep
        self._best: dict[str, bytes] = {}

    def hold_best(self, tally: Tally, stepper: Stepper) -> None:
        """Keep this state in memory as the best so far; `save` writes it.

        A run that improves at every epoch would spend its time in synchronising files.
        """
        state, weights = io.BytesIO(), io.BytesIO()
        self._write(state, tally, stepper)
        write_leaves(weights, stepper.evaluated)
        self._best = {BEST: state.getvalue(), BEST_MODEL: weights.getvalue()}

    def save(self, tally: Tally, stepper: Stepper) -> None:
        """Write a checkpoint, and the best one if there is a new one; then remove older ones."""
        self._folder.mkdir(exist_ok=True)
        # First, so that a checkpoint never names a best one that is not there.
        for name, data in self._best.items():
            write_atomically(self._folder / name, functools.partial(_write_bytes, data))
        self._best = {}
        path = self._folder / f"step_{tally.steps:09d}.ckpt"
        write_atomically(path, lambda file: self._write(file, tally, stepper))
        for file in self._newest_first()[self._keep :]:
            file.unlink()

    def restore(self, stepper: Stepper) -> Restored:
        """Bring `stepper` to the newest checkpoint that is whole and belongs to this run.

        Where there is no checkpoint at all, `stepper` stays at its beginning. Newer files that are
        refused get a name that ends in `.refused`; what a killed process left half-written is
        removed.

        **Raises:** `CheckpointError` if there are checkpoints, and none can be used.
        """
        remove_leftovers(self._folder)
        refused: dict[Path, str] = {}
        for path in self._candidates():
            try:
                tally, versions, leaves = self._read(path, stepper)
            except CheckpointError as error:
                refused[path] = str(error)
                continue
            for bad in refused:
                bad.rename(bad.with_name(f"{bad.name}.refused"))
            stepper.replace(leaves)
            return Restored(tally, versions, list(refused.values()))
        if refused:
            raise CheckpointError(
                f"{' '.join(refused.values())} There is no other: remove `{self._folder}` to "
                "continue from the beginning."
            )
        return Restored(Tally(), {}, [])

    def _write(self, file: BinaryIO, tally: Tally, stepper: Stepper) -> None:
        header = {
            "tally": dataclasses.asdict(tally),
            "config": self._config,
            "versions": self._versions,
        }
        body = DigestWriter(file)
        body.write(json.dumps(header).encode() + b"\n")
        write_leaves(cast(BinaryIO, body), stepper.leaves)  # a file to write to is enough
        file.write(body.hexdigest().encode())

    def _read(self, path: Path, stepper: Stepper) -> tuple[Tally, dict[str, str], list[Any]]:
        """The tally, versions and leaves of a file.

        **Raises:** `CheckpointError` with the reason why it is refused.
        """
        with open(path, "rb") as file:
            size = path.stat().st_size - DIGEST_LENGTH
            found, expected = digest_of_file(file, size), file.read()
            if found.encode() != expected:
                raise CheckpointError(
                    f"The checkpoint `{path}` is damaged: its SHA-256 is not the one it ends with."
                )
            file.seek(0)
            try:
                header = json.loads(file.readline())
                config, versions = header["config"], header["versions"]
                tally = Tally(**header["tally"])
            except (ValueError, TypeError, KeyError) as error:
                raise CheckpointError(
                    f"The checkpoint `{path}` is of a format that this version does not read."
                ) from error
            if config != self._config:
                raise CheckpointError(f"The checkpoint `{path}` is of another configuration.")
            try:
                leaves = read_leaves(file, stepper.leaves)
            except (RuntimeError, ValueError, TypeError, EOFError) as error:
                raise CheckpointError(
                    f"The checkpoint `{path}` holds other arrays than model and optimiser have."
                ) from error
        return tally, versions, leaves

    def _candidates(self) -> Iterator[Path]:
        """The newest first; the best is as good as any other, and often the oldest."""
        yield from self._newest_first()
        if (best := self._folder / BEST).exists():
            yield best

    def _newest_first(self) -> list[Path]:
        return sorted(self._folder.glob("step_*.ckpt"), reverse=True)


def _write_bytes(data: bytes, file: BinaryIO) -> None:
    file.write(data)
