from typing import Any

import jax
from rich.table import Table


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
    cells = [["" if value is None else str(value) for value in row.values()] for row in rows]
    lines = [list(rows[0]), ["---"] * len(rows[0]), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def mebibytes(program: jax.stages.Compiled) -> float:
    """The memory of a program beside arguments and results, in MiB."""
    found = program.memory_analysis()
    assert found is not None, "XLA says so on every platform"
    return found.temp_size_in_bytes / 2**20
