import math

import pytest

from training import FolderError
from training.records import Records


def write(path, steps):
    with Records.create(path) as records:
        for step in steps:
            records.write({"step": step, "loss": 1.0})


def test_a_record_is_on_disk_before_the_next(tmp_path, read_records):
    with Records.create(tmp_path / "metrics.jsonl") as records:
        for step in (1, 2, 3):
            records.write({"step": step})
            assert read_records(tmp_path)[-1] == {"step": step}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_becomes_null(tmp_path, read_records, value):
    with Records.create(tmp_path / "metrics.jsonl") as records:
        records.write({"step": 1, "loss": value, "nested": {"loss": value}, "accepted": True})
    assert read_records(tmp_path) == [
        {"step": 1, "loss": None, "nested": {"loss": None}, "accepted": True}
    ]


def test_of_two_runs_for_one_file_one_is_refused(tmp_path):
    write(tmp_path / "metrics.jsonl", [1])
    with pytest.raises(FolderError, match="already holds a run"):
        Records.create(tmp_path / "metrics.jsonl")


def test_resuming_continues_after_the_step(tmp_path, read_records):
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 8))
    with Records.reopen(path) as records:
        records.rewind(4)
        records.write({"step": 5, "loss": 2.0})
    assert [record["step"] for record in read_records(tmp_path)] == [1, 2, 3, 4, 5]
    assert [record["loss"] for record in read_records(tmp_path)] == [1.0] * 4 + [2.0]


def test_resuming_drops_what_a_crash_cut_at_any_byte(tmp_path, read_records):
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2])
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole)):
        path.write_bytes(whole[:end])
        with Records.reopen(path) as records:
            records.rewind(2)
            records.write({"step": 2})
        assert read_records(tmp_path) == [{"step": 1, "loss": 1.0}, {"step": 2}]


def test_resuming_where_nothing_was_written_starts_a_file(tmp_path, read_records):
    with Records.reopen(tmp_path / "metrics.jsonl") as records:
        records.rewind(0)
        records.write({"step": 1})
    assert read_records(tmp_path) == [{"step": 1}]


def test_spoilt_bytes_end_what_is_kept(tmp_path, read_records):
    """As a power failure may leave them: lines of zeros, or cut and gone on with."""
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2])
    with open(path, "ab") as file:
        file.write(bytes(8) + b"\n" + b'{"step": 3}\n')
    with Records.reopen(path) as records:
        records.rewind(9)
    assert [record["step"] for record in read_records(tmp_path)] == [1, 2]


def test_only_one_process_writes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with (
        Records.create(path),
        pytest.raises(FolderError, match="Another process is using the run folder"),
    ):
        Records.reopen(path)
    with Records.reopen(path):
        pass
