import json
from pathlib import Path
from typing import Any

import jax
from rich.table import Table

from training import machine


def table(title: str, rows: list[dict[str, Any]]) -> Table:
    """A table for the terminal, with one column per key of the rows."""
    made = Table(title=title)
    for name, value in rows[0].items():
        made.add_column(name, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        made.add_row(*("" if value is None else str(value) for value in row.values()))
    return made


def markdown(rows: list[dict[str, Any]]) -> str:
    """The same table as Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(map(str, row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_figures(file: Path, about: dict[str, Any], **figures: Any) -> None:
    """Write the machine of `about` and all figures as JSON."""
    text = json.dumps({"machine": about, **figures}, indent=2, ensure_ascii=False, default=vars)
    file.write_text(text + "\n", encoding="utf-8")


def write_page(file: Path, template: Path, about: dict[str, Any], **more: Any) -> None:
    """Write a page: fill the machine of `about` and the values of `more` into the template."""
    versions = machine.versions_in_one_line(about)
    text = template.read_text(encoding="utf-8").format(
        processor=about["processor"], versions=versions, **more
    )
    file.write_text(text, encoding="utf-8")


def mebibytes(program: jax.stages.Compiled) -> float:
    """The memory of a program beside arguments and results, in MiB."""
    found = program.memory_analysis()
    assert found is not None, "XLA says so on every platform"
    return found.temp_size_in_bytes / 2**20
