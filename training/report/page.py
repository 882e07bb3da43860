"""The report as one self-contained HTML page."""

import base64
import html
import string
from collections.abc import Mapping, Sequence
from pathlib import Path

from .configurations import Configuration
from .curves import POINTS
from .figures import Plot, colours
from .table import Row, heading

TEMPLATE = string.Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
NO_FIGURES = '<p class="note">No run has data to draw.</p>'


def page(
    folder: Path,
    configurations: Sequence[Configuration],
    table: Sequence[Row],
    images: Mapping[Plot, bytes],
) -> str:
    """The page for runs below `folder`; `images` are PNGs."""
    names = list(table[0].cells)
    headings = ["configuration", "finished", *map(heading, names)]
    runs = sum(row.runs for row in table)
    finished = sum(row.finished for row in table)
    return TEMPLATE.substitute(
        title=html.escape(f"Runs in {folder.name}"),
        counts=f"{_count(runs, 'run')}, {finished} finished; "
        f"{_count(len(table), 'configuration')}. {html.escape(str(folder))}",
        head=_row("th", headings, headings),
        rows="\n".join(
            _row(
                "td",
                headings,
                [row.label, f"{row.finished} of {row.runs}", *map(row.shown, names)],
                colour,
            )
            for row, colour in zip(table, colours(len(table)), strict=True)
        ),
        unfinished=_unfinished(folder, configurations),
        figures="\n".join(_figure(plot, image) for plot, image in images.items()) or NO_FIGURES,
        points=POINTS,
    )


def _unfinished(folder: Path, configurations: Sequence[Configuration]) -> str:
    """The runs that did not finish, and why; empty if all did."""
    headings = ["run", "status", "configuration", "seed", "steps", "reason"]
    lines = [
        _row(
            "td",
            headings,
            [
                str(
                    run.folder.relative_to(folder)
                    if run.folder.is_relative_to(folder)
                    else run.folder
                ),
                run.status,
                group.label,
                str(run.config.get("seed", "-")),
                f"{run.columns['step'][-1]:.0f}" if len(run.columns["step"]) else "0",
                run.reason or "-",
            ],
        )
        for group in configurations
        for run in group.runs
        if not run.is_finished
    ]
    if not lines:
        return ""
    return (
        f'<h2>Not finished</h2>\n<div class="wide"><table class="words">\n'
        f"<thead>{_row('th', headings, headings)}</thead>\n<tbody>\n"
        + "\n".join(lines)
        + "\n</tbody>\n</table></div>"
    )


def _row(tag: str, names: Sequence[str], cells: Sequence[str], colour: str = "") -> str:
    swatch = f'<i style="background:{colour}"></i>' if colour else ""
    inner = [
        f'<{tag} data-name="{html.escape(name)}">{swatch * (not place)}{html.escape(text)}</{tag}>'
        for place, (name, text) in enumerate(zip(names, cells, strict=True))
    ]
    return f"<tr>{''.join(inner)}</tr>"


def _figure(plot: Plot, image: bytes) -> str:
    data = base64.b64encode(image).decode()
    return (
        f"<figure><figcaption>{plot.title}</figcaption>"
        f'<img alt="{plot.title}" src="data:image/png;base64,{data}"></figure>'
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number != 1 else "")
