import errno
import fcntl
import math
import os

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
def test_numbers_that_are_not_finite_become_null(tmp_path, read_records, value):
    with Records.create(tmp_path / "metrics.jsonl") as records:
        records.write({"step": 1, "loss": value, "nested": {"loss": value}, "accepted": True})
    assert read_records(tmp_path) == [
        {"step": 1, "loss": None, "nested": {"loss": None}, "accepted": True}
    ]


def test_a_second_run_for_the_same_file_is_refused(tmp_path):
    write(tmp_path / "metrics.jsonl", [1])
    with pytest.raises(FolderError, match="already holds a run"):
        Records.create(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize("opened", [Records.create, Records.reopen])
def test_a_file_system_without_locks_is_one_sentence(tmp_path, monkeypatch, opened):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(FolderError) as refused:
        opened(path)
    assert str(refused.value) == (
        f"Cannot lock `{path}`: No locks available. Use a file system with locks."
    )


def test_resuming_continues_after_the_step(tmp_path, read_records):
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 8))
    with Records.reopen(path) as records:
        records.rewind(4)
        records.write({"step": 5, "loss": 2.0})
    assert [record["step"] for record in read_records(tmp_path)] == [1, 2, 3, 4, 5]
    assert [record["loss"] for record in read_records(tmp_path)] == [1.0] * 4 + [2.0]


def test_resuming_drops_a_record_that_a_crash_cut_at_any_byte(tmp_path, read_records):
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


def test_resuming_without_a_file_starts_one(tmp_path, read_records):
    with Records.reopen(tmp_path / "metrics.jsonl") as records:
        records.rewind(0)
        records.write({"step": 1})
    assert read_records(tmp_path) == [{"step": 1}]


def test_records_after_damaged_bytes_are_dropped(tmp_path, read_records):
    """A power failure can leave a line of zeros between the records."""
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
