"""Run folders are read in every state in which a run may leave them."""

import numpy as np
import pytest

from tests.selection import slow_but
from training.report import ReportError, write_report
from training.report.runs import find_runs, read_run


def test_runs_are_found_at_any_depth_once_and_in_the_order_of_their_numbers(write_run, tmp_path):
    for number in (10, 2, 1):
        write_run(f"multirun/day/{number}")
    write_run("alone", unfinished=True)
    found = find_runs([tmp_path / "multirun", tmp_path / "multirun/day/2", tmp_path / "alone"])
    assert [run.folder.name for run in found] == ["1", "2", "10", "alone"]


def test_a_folder_with_one_of_the_files_is_a_run(write_run, tmp_path):
    for name in ("config.yaml", "metrics.jsonl", "summary.json"):
        folder = write_run(name.partition(".")[0])
        for other in folder.iterdir():
            if other.name != name:
                other.unlink()
    assert len(find_runs([tmp_path])) == 3


@pytest.mark.parametrize("made", [False, True])
def test_a_folder_without_a_run_is_refused(made, write_run, tmp_path):
    folder = tmp_path / "empty"
    if made:
        folder.mkdir()
    with pytest.raises(ReportError, match=r"^There is no (run in|folder) `.*empty`"):
        find_runs([write_run("good"), folder])


def test_a_crash_at_any_byte_costs_one_record_at_most(write_run):
    folder = write_run("run", unfinished=True)
    file = folder / "metrics.jsonl"
    file.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "result": "λ‖d‖", "loss": 1.0}\n')
    whole = file.read_bytes()
    first = whole.index(b"\n")
    for size in range(len(whole) + 1):
        file.write_bytes(whole[:size])
        run = read_run(folder)
        # A record that lacks only its newline is complete.
        expected = (size >= first) + (size >= len(whole) - 1)
        np.testing.assert_array_equal(run.columns["loss"], [2.0, 1.0][:expected])
        assert len(run.columns["damping"]) == expected


def test_null_is_nan(write_run):
    run = read_run(write_run("run", losses=(1.0, None, 3.0)))
    np.testing.assert_array_equal(run.columns["loss"], [1.0, np.nan, 3.0])
    assert np.isnan(run.columns["reduction_ratio"]).all()


def test_status_and_reason_say_how_a_run_ended(write_run):
    assert read_run(write_run("done"))[-2:] == ("finished", "")
    stopped = write_run("stopped", summary={"status": "interrupted", "reason": "By SIGTERM."})
    assert read_run(stopped)[-2:] == ("interrupted", "By SIGTERM.")
    killed = read_run(write_run("killed", unfinished=True))
    assert killed.status == "unfinished"
    assert "the run was killed, or is still running" in killed.reason
    failed = write_run("failed", unfinished=True)
    (failed / "error.log").write_text("Traceback\n  ...\nRuntimeError: out of memory\n\n")
    assert read_run(failed)[-2:] == ("failed", "RuntimeError: out of memory")


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff", b"[1]"])
def test_a_damaged_file_counts_as_missing(damage, write_run):
    folder = write_run("run")
    for name in ("config.yaml", "summary.json"):
        (folder / name).write_bytes(damage)
    run = read_run(folder)
    assert (run.config, run.summary, run.status) == ({}, {}, "unfinished")


ODD = {
    "a status that is a number": ("summary.json", '{"status": 3}', "`status` in summary.json is 3"),
    "metrics that are a number": ("summary.json", '{"status": "finished", "test": 5}', "`test`"),
    "400 digits": ("summary.json", f'{{"status": "finished", "steps": {"9" * 400}}}', "too large"),
    "400 digits in a record": (
        "metrics.jsonl",
        f'{{"step": 1, "loss": {"9" * 400}}}\n',
        "too large",
    ),
    "half of a surrogate pair": ("summary.json", '{"status": "\\ud800"}', "surrogates not allowed"),
    "5000 nested brackets": ("config.yaml", "[" * 5000, "RecursionError"),
}


@pytest.mark.parametrize("case", slow_but([*ODD][:2], ODD))
def test_a_run_that_cannot_be_read_is_a_line_of_the_report(case, write_run, tmp_path):
    write_run("good")
    name, text, reason = ODD[case]
    (write_run("odd") / name).write_text(text, encoding="utf-8")
    run = read_run(tmp_path / "odd")
    assert (run.status, run.is_finished) == ("unreadable", False)
    assert reason in run.reason
    assert "unreadable" in write_report([tmp_path]).page.read_text(encoding="utf-8")


def test_a_run_with_a_folder_in_the_place_of_a_file_is_unreadable(write_run, tmp_path):
    folder = write_run("odd")
    (folder / "config.yaml").unlink()
    (folder / "config.yaml").mkdir()
    assert read_run(folder).status == "unreadable"
    assert "IsADirectoryError" in read_run(folder).reason
