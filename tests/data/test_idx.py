"""The IDX reader reads arrays of unsigned bytes, and refuses anything else in one sentence."""

import gzip
import math
import re

import numpy as np
import pytest

from data import DatasetError
from data.idx import read_idx


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.gz"


@pytest.mark.parametrize("sizes", [(6,), (2, 3), (3, 1, 2), (1, 2, 3, 1), (0, 5)])
def test_entries_come_back_in_row_major_order(path, idx_bytes, sizes):
    entries = [entry % 256 for entry in range(250, 250 + math.prod(sizes))]
    path.write_bytes(idx_bytes(sizes, entries))
    array = read_idx(path, dimensions=len(sizes))
    expected = np.array(entries, np.uint8).reshape(sizes)
    np.testing.assert_array_equal(array, expected, strict=True)


def test_sizes_are_big_endian(path, idx_bytes):
    path.write_bytes(idx_bytes((258,), bytes(258)))
    assert gzip.decompress(path.read_bytes())[4:8] == b"\x00\x00\x01\x02"
    assert read_idx(path, dimensions=1).shape == (258,)


def refuses(path, dimensions, match):
    with pytest.raises(DatasetError, match=match) as caught:
        read_idx(path, dimensions=dimensions)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sizes", "count"),
    [((4,), 3), ((4,), 5), ((2, 2), 0), ((0,), 1), ((2**32 - 1, 2**32 - 1, 2**32 - 1), 8)],
)
def test_the_length_must_be_the_one_in_the_header(path, idx_bytes, sizes, count):
    path.write_bytes(idx_bytes(sizes, bytes(count)))
    refuses(path, len(sizes), f"must hold {math.prod(sizes)} entries.*got {count};")


def test_other_types_are_refused(path, idx_bytes):
    path.write_bytes(idx_bytes((1,), bytes(4), kind=0x0D))
    refuses(path, 1, "unsigned bytes in 1 dimensions.*got 00 00 0d 01")


def test_another_number_of_dimensions_is_refused(path, idx_bytes):
    path.write_bytes(idx_bytes((2, 2), bytes(4)))
    refuses(path, 3, "in 3 dimensions.*got 00 00 08 02")


@pytest.mark.parametrize("length", range(8))
def test_a_cut_header_is_refused(path, length):
    header = bytes([0, 0, 8, 1, 0, 0, 0, 0])
    path.write_bytes(gzip.compress(header[:length]))
    refuses(path, 1, f"got {header[:length].hex(' ') or 'nothing'}")


def test_text_in_gzip_is_refused(path):
    path.write_bytes(gzip.compress(b"<!DOCTYPE html><html></html>"))
    refuses(path, 1, "must be an IDX file")


def test_a_file_that_is_not_gzip_is_refused(path):
    path.write_bytes(b"<!DOCTYPE html><html></html>")
    refuses(path, 1, "Not a gzipped file")


def test_every_truncation_of_the_compressed_file_is_refused(path, idx_bytes):
    whole = idx_bytes((64,), range(64))
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refuses(path, 1, re.escape(str(path)))


def test_a_flipped_bit_in_the_entries_is_refused(path, idx_bytes):
    whole = bytearray(idx_bytes((64,), range(64)))
    whole[len(whole) // 2] ^= 0x10
    path.write_bytes(whole)
    refuses(path, 1, "Cannot read")


def test_a_missing_file_and_a_folder_are_refused(path, tmp_path):
    refuses(path, 1, "No such file")
    refuses(tmp_path, 1, "Is a directory")
