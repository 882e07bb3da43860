"""Writes the files of a report."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .configurations import configurations
from .figures import DPI, PLOTS, Plot, draw
from .page import page
from .runs import find_runs
from .table import Row, rows, write_csv

FOLDER, PAGE, TABLE = "report", "report.html", "table.csv"


class Report(NamedTuple):
    """A report that was written: its page, and its table."""

    page: Path
    table: list[Row]


def write_report(folders: Sequence[Path]) -> Report:
    """Report on all runs in and below `folders`, in the folder `report` of the first.

    The files are `report.html`, which contains everything, `table.csv`, and a PNG of each figure.
    They replace those of an earlier report.

    **Raises:** `ReportError` if there is no run; `OSError` if the files cannot be written.
    """
    folder = folders[0].resolve()
    groups = configurations(find_runs(folders))
    table = rows(groups)
    into = folder / FOLDER
    into.mkdir(exist_ok=True)
    images: dict[Plot, bytes] = {}
    for plot in PLOTS:
        path = into / f"{plot.name}.png"
        figure = draw(plot, groups)
        if figure is None:
            path.unlink(missing_ok=True)
            continue
        image = io.BytesIO()
        figure.savefig(image, dpi=DPI, format="png")
        images[plot] = image.getvalue()
        path.write_bytes(images[plot])
    with open(into / TABLE, "w", encoding="utf-8", newline="") as file:
        write_csv(table, file)
    (into / PAGE).write_text(page(folder, groups, table, images), encoding="utf-8")
    return Report(into / PAGE, table)
