"""The IDX file format, in which MNIST and its relatives are published."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ._base import DatasetError

UNSIGNED_BYTE = 0x08


def read_idx(path: Path, *, dimensions: int) -> UInt8[np.ndarray, "..."]:
    """Read a gzip-compressed IDX file of unsigned bytes.

    The format (Y. LeCun, *The MNIST database*): two zero bytes, one byte for the type of the
    entries, one for the number of dimensions; the size of each dimension as a big-endian
    32-bit integer; then the entries, the last dimension running fastest.

    **Arguments:**

    - `path`: the file.
    - `dimensions`: how many dimensions it must have.

    **Raises:** `DatasetError` if the file cannot be read or decompressed, is not IDX, has
    another type or number of dimensions, or is not exactly as long as its header says.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"Cannot read `{path}`: {error}; replace the file.") from error

    header = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    start = len(header) + 4 * dimensions
    if content[: len(header)] != header or len(content) < start:
        raise DatasetError(
            f"`{path}` must be an IDX file of unsigned bytes in {dimensions} dimensions, which "
            f"begins with {header.hex(' ')} and {dimensions} sizes, "
            f"got {content[:start].hex(' ') or 'nothing'}."
        )
    shape = np.frombuffer(content[len(header) : start], dtype=">u4").tolist()
    if len(content) - start != math.prod(shape):
        raise DatasetError(
            f"`{path}` must hold {math.prod(shape)} entries, as its header says, "
            f"got {len(content) - start}; replace the file."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
