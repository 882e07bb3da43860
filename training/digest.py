"""SHA-256 digests of files and configurations, to detect changes."""

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any, BinaryIO

CHUNK = 1 << 20


class DigestWriter:
    """Writes to `file`, and computes the SHA-256 of everything written."""

    def __init__(self, file: BinaryIO):
        self._file, self._sha256 = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self._sha256.update(data)
        return self._file.write(data)

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


def digest_of_file(file: BinaryIO, size: int) -> str:
    """The SHA-256 of the next `size` bytes of `file`, or of fewer if the file ends before."""
    sha256 = hashlib.sha256()
    while size > 0 and (chunk := file.read(min(size, CHUNK))):
        sha256.update(chunk)
        size -= len(chunk)
    return sha256.hexdigest()


def digest_of_config(config: Mapping[str, Any], *, without: Collection[str]) -> str:
    """The SHA-256 of a configuration of plain values, independent of the order of its keys.

    **Arguments:** `without`: top-level keys that are left out.
    """
    counted = {key: value for key, value in config.items() if key not in without}
    text = json.dumps(counted, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
