"""What the results of all experiments are written with."""

from collections.abc import Sequence
from pathlib import Path


def results_folder(path: str) -> Path:
    """The folder of the results, made before anything is run."""
    made = Path(path)
    made.mkdir(parents=True, exist_ok=True)
    return made


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
