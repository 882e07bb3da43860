"""Checkpoints: what is needed to continue a run as if it had never stopped.

A file is one line of JSON, the `Tally`, and the carried arrays of the step in `equinox`'s format.
Reading one runs no code from it. The batches and the keys of the steps to come need no saving:
they are functions of (seed, step).
"""

import dataclasses
import json
from pathlib import Path
from typing import BinaryIO

from ._base import Tally
from .atomic import write_atomically
from .leaves import read_leaves, write_leaves
from .stepper import Stepper


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, in one sentence."""


class Checkpoints:
    """The checkpoints of a run folder; the newest is kept."""

    def __init__(self, folder: Path):
        self._folder = folder

    def save(self, tally: Tally, stepper: Stepper) -> None:
        """Write a checkpoint, whole or not at all, then remove older ones."""

        def write(file: BinaryIO) -> None:
            file.write(json.dumps(dataclasses.asdict(tally)).encode() + b"\n")
            write_leaves(file, stepper.leaves)

        self._folder.mkdir(exist_ok=True)
        older = self._files()
        path = self._folder / f"step_{tally.steps:09d}.ckpt"
        write_atomically(path, write)
        for file in older:
            if file != path:
                file.unlink()

    def restore(self, stepper: Stepper) -> Tally:
        """Bring `stepper` to the newest checkpoint, and return the tally of that moment.

        Where there is no checkpoint, `stepper` stays at its beginning and the tally is empty.

        **Raises:** `CheckpointError` if the file is damaged or belongs to another model.
        """
        files = self._files()
        if not files:
            return Tally()
        try:
            with open(files[-1], "rb") as file:
                tally = Tally(**json.loads(file.readline()))
                stepper.leaves = read_leaves(file, stepper.leaves)
        except (RuntimeError, ValueError, TypeError, EOFError) as error:
            raise CheckpointError(
                f"The checkpoint `{files[-1]}` is damaged or belongs to another run; remove it to "
                "continue from the beginning."
            ) from error
        return tally

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("step_*.ckpt"))
