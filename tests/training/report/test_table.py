"""The statistics of the table agree with those of NumPy."""

import csv
import io

import numpy as np
import pytest

from training.report.configurations import configurations
from training.report.runs import read_run
from training.report.table import Cell, cell, rows, write_csv

VALUES = [0.3, 0.1, 0.7, 0.25]


@pytest.fixture
def table(write_run):
    """The rows of seven runs: four finished with the losses `VALUES`, and three others.

    Of the others, one diverged, one was killed, and one finished without a loss.
    """
    ends = [{"train_loss": value} for value in VALUES]
    ends.append({"train_loss": 100.0, "status": "diverged"})
    folders = [write_run(str(seed), {"seed": seed}, summary=end) for seed, end in enumerate(ends)]
    folders.append(write_run("killed", {"seed": 9}, unfinished=True))
    folders.append(write_run("null", {"seed": 10}, summary={"train_loss": None}))
    return rows(configurations([read_run(folder) for folder in folders]))


def test_means_and_deviations_are_over_the_finished_runs(table):
    (row,) = table
    assert (row.runs, row.finished) == (7, 5)
    assert row.cells["train_loss"] == (
        pytest.approx(np.mean(VALUES)),
        pytest.approx(np.std(VALUES, ddof=1)),
        4,
    )
    assert row.shown("train_loss") == "0.34 ± 0.26 (n = 4)"
    assert row.shown("test.accuracy") == "0.5 ± 0"
    assert "test_loss" not in row.cells


def test_the_csv_has_all_digits(table):
    file = io.StringIO()
    write_csv(table, file)
    file.seek(0)
    (line,) = csv.DictReader(file)
    assert float(line["train_loss_mean"]) == table[0].cells["train_loss"].mean
    assert (line["runs"], line["finished"], line["train_loss_n"]) == ("7", "5", "4")


def test_one_run_has_no_deviation():
    assert str(cell([0.25])) == "0.25"
    assert str(cell([float("nan")])) == "-"


@pytest.mark.parametrize(
    ("mean", "deviation", "shown"),
    [
        (864.83, 173.2, "865 ± 173"),
        (0.98234, 0.01712, "0.982 ± 0.017"),
        (1.00000912, 0.0000000123, "1.00001 ± 1.2e-08"),
        (12.0, 0.0, "12 ± 0"),
    ],
)
def test_the_mean_is_rounded_like_the_deviation(mean, deviation, shown):
    assert str(Cell(mean, deviation, 3)) == shown
