"""IDX files that are encoded by hand."""

import gzip
import struct

import pytest


@pytest.fixture
def idx_bytes():
    """Encodes an IDX file in gzip; the sizes in its header need not agree with the entries."""

    def encode(sizes, entries, kind=0x08):
        header = bytes([0, 0, kind, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes)
        return gzip.compress(header + bytes(entries), mtime=0)

    return encode
