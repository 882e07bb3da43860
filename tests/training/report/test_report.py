"""Whole reports: the page, its figures, and the command `python -m training.report`."""

import base64
import html.parser
import sys

import matplotlib.image
import pytest

from tests.selection import slow_but
from training.report import write_report
from training.report.__main__ import main
from training.report.figures import PLOTS


class Page(html.parser.HTMLParser):
    """Parses a page: its text, its references to other files, and the names of its tags."""

    def __init__(self, file):
        super().__init__()
        self.text, self.references, self.tags = "", [], set()
        self.feed(file.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.references += [value for name, value in attrs if name in ("src", "href", "srcset")]

    def handle_data(self, data):
        self.text += data


def test_the_page_loads_no_other_file(write_run, tmp_path):
    write_run("run", {"note": "<script src=https://example.org></script>"})
    write_run("other", {"note": "plain"})
    report = write_report([tmp_path])
    page = Page(report.page)
    assert not page.tags & {"script", "link", "iframe", "object"}
    others = [found for found in page.references if not found.startswith("data:image/png;base64,")]
    assert others == ["table.csv"]
    assert "url(" not in report.page.read_text()
    assert "@import" not in report.page.read_text()
    assert "<script src=https://example.org></script>" in page.text


def test_the_page_contains_the_figures_of_its_folder(write_run, tmp_path):
    write_run("run")
    report = write_report([tmp_path])
    images = [base64.b64decode(found[22:]) for found in Page(report.page).references[1:]]
    names = [plot.name for plot in PLOTS if plot.name != "reduction_ratio"]  # null in all records
    assert images == [(report.page.parent / f"{name}.png").read_bytes() for name in names]
    assert sorted(path.name for path in report.page.parent.iterdir()) == sorted(
        ["report.html", "table.csv", *(f"{name}.png" for name in names)]
    )
    for name in names:
        image = matplotlib.image.imread(report.page.parent / f"{name}.png")
        assert image.std() > 0


def test_runs_that_did_not_finish_are_shown_with_their_reason(write_run, tmp_path):
    write_run("good", {"lr": 1})
    write_run("bad", {"lr": 2, "seed": 7}, summary={"status": "diverged", "reason": "NaN & more."})
    write_run("killed", {"lr": 2}, losses=(1.0,), unfinished=True)
    text = Page(write_report([tmp_path]).page).text
    assert "3 runs, 1 finished; 2 configurations." in text
    assert "baddivergedlr=273NaN & more." in text
    assert "killedunfinishedlr=201No summary.json" in text


LOSSES = [
    [()],
    [(None, None)],
    [(1.0,)],
    [(-1.0, 0.0), (2.0, None, 3.0, 1e30)],
    [(1.0,) * n for n in (1, 2, 40, 1000)],
]


@pytest.mark.parametrize("losses", slow_but([LOSSES[0], LOSSES[3]], LOSSES))
def test_any_recorded_losses_can_be_drawn(losses, write_run, tmp_path):
    for number, of_run in enumerate(losses):
        write_run(str(number), losses=of_run or (1.0,), summary={"seed": number})
        if not of_run:
            (tmp_path / str(number) / "metrics.jsonl").write_text("")
    assert write_report([tmp_path]).page.exists()
    drawn = (tmp_path / "report" / "loss_by_steps.png").exists()
    assert drawn == any(loss is not None for of_run in losses for loss in of_run)


@pytest.mark.slow
def test_a_hundred_configurations_fit_the_page_and_the_figures(write_run, tmp_path):
    for number in range(100):
        write_run(str(number), {"lr": number})
    report = write_report([tmp_path])
    assert len(report.table) == 100
    assert "lr=99" in Page(report.page).text
    image = matplotlib.image.imread(report.page.parent / "loss_by_steps.png")
    assert image.shape[0] < 1.5 * image.shape[1]  # the legend does not stretch the figure


def test_an_earlier_report_is_replaced(write_run, tmp_path):
    run = write_run("run")
    write_report([tmp_path])
    (run / "metrics.jsonl").unlink()
    write_report([tmp_path])
    assert not list((tmp_path / "report").glob("*.png"))


def test_the_command_reports_on_all_given_folders(write_run, tmp_path, monkeypatch, capsys):
    write_run("first/a", {"lr": 1})
    write_run("second/b", {"lr": 2})
    folders = [str(tmp_path / "first"), str(tmp_path / "second")]
    monkeypatch.setattr(sys, "argv", ["report", *folders])
    assert main() == 0
    out = capsys.readouterr().out
    assert "lr=2" in out
    assert out.splitlines()[-1] == f"report {tmp_path / 'first' / 'report' / 'report.html'}"


def test_a_folder_without_runs_is_refused_with_exit_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    assert main() == 2
    assert capsys.readouterr().err.startswith(f"There is no run in `{tmp_path}`: ")
    assert not list(tmp_path.iterdir())
