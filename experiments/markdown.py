"""What the results of all experiments are written with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def results_folder(path: str) -> Path:
    """The folder of the results, made before anything is run."""
    made = Path(path)
    made.mkdir(parents=True, exist_ok=True)
    return made


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def versions(about: dict[str, Any]) -> str:
    """The packages of `machine.describe()` and their versions, in one line."""
    return ", ".join(f"{name} {version}" for name, version in about["versions"].items())
