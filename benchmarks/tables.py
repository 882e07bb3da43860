from typing import Any

from rich.table import Table


def table(title: str, rows: list[dict[str, Any]]) -> Table:
    """Figures for the terminal, one column per key of the rows."""
    made = Table(title=title)
    for name, value in rows[0].items():
        made.add_column(name, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        made.add_row(*("" if value is None else str(value) for value in row.values()))
    return made
