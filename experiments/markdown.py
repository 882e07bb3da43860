"""Functions with which all experiments write their results."""

from collections.abc import Sequence
from pathlib import Path


def results_folder(path: str) -> Path:
    """The folder of the results; it is created at once, before the experiment runs."""
    made = Path(path)
    made.mkdir(parents=True, exist_ok=True)
    return made


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
