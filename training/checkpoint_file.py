"""The format of a checkpoint file.

A file has three parts:

- one line of JSON: the `Header`;
- the carried arrays of the step, in `equinox`'s format;
- the SHA-256 of the first two parts, as 64 hexadecimal digits.

Reading a file executes no code from it. If no process holds all arrays whole, the arrays are
written to a folder beside the file, see `sharded`, and the second part is empty.
"""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from jaxtyping import Array

from ._base import Tally
from .digest import DigestWriter, digest_of_file
from .leaves import write_leaves

DIGEST_LENGTH = 64
_OTHER_FORMAT = "The checkpoint `{}` has a format that this version cannot read."


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one sentence."""


class Header(NamedTuple):
    """The first line of a file.

    - `tally`: the counters of the run.
    - `config`: the digest of the run's configuration.
    - `versions`: of the packages that affect results.
    - `arrays`: the name of the folder of arrays, the SHA-256 of its files, and the shapes of the
        arrays; None if the arrays are in the file.
    """

    tally: Tally
    config: str
    versions: dict[str, str]
    arrays: dict[str, Any] | None = None


def write(file: BinaryIO, header: Header, leaves: list[Array]) -> None:
    """Write a file, with `leaves` unless the header names a folder of arrays."""
    line = header._asdict() | {"tally": dataclasses.asdict(header.tally)}
    if header.arrays is None:
        del line["arrays"]
    body = DigestWriter(file)
    body.write(json.dumps(line).encode() + b"\n")
    if header.arrays is None:
        write_leaves(cast(BinaryIO, body), leaves)  # an object with `write` is enough
    file.write(body.hexdigest().encode())


@contextmanager
def opened(path: Path) -> Iterator[tuple[Header, BinaryIO]]:
    """Open a file: its header, and the file at the beginning of the arrays.

    **Raises:** `CheckpointError` if the file is damaged or has another format.
    """
    with open(path, "rb") as file:
        digest = digest_of_file(file, path.stat().st_size - DIGEST_LENGTH)
        if digest.encode() != file.read():
            raise CheckpointError(
                f"The checkpoint `{path}` is damaged: its content does not match the SHA-256 at "
                "its end."
            )
        file.seek(0)
        yield _read_header(file, path), file


def read_line(path: Path) -> dict[str, Any]:
    """The first line of a file, as plain values; the rest of the file is not checked.

    **Raises:** `CheckpointError` if the line is not one of a checkpoint of any version.
    """
    with open(path, "rb") as file:
        return _parse_line(file, path)


def _parse_line(file: BinaryIO, path: Path) -> dict[str, Any]:
    try:
        line = json.loads(file.readline())
    except ValueError as error:
        raise CheckpointError(_OTHER_FORMAT.format(path)) from error
    if not isinstance(line, dict):
        raise CheckpointError(_OTHER_FORMAT.format(path))
    return line


def _read_header(file: BinaryIO, path: Path) -> Header:
    line = _parse_line(file, path)
    try:
        tally = Tally(**line["tally"])
        return Header(tally, line["config"], line["versions"], line.get("arrays"))
    except (TypeError, KeyError) as error:
        raise CheckpointError(_OTHER_FORMAT.format(path)) from error
