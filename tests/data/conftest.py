"""Hand-made IDX files."""

import gzip
import struct

import pytest


@pytest.fixture
def idx_bytes():
    """Writes the header by hand: the sizes may be made not to fit the entries."""

    def encode(sizes, entries, kind=0x08):
        header = bytes([0, 0, kind, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes)
        return gzip.compress(header + bytes(entries), mtime=0)

    return encode
