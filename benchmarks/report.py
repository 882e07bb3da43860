"""What all benchmarks share: the options, the tables on the terminal, and the files of results."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from training import machine
from training.progress import wide_console

from .tables import markdown, table

FOLDER = Path(__file__).parent


def parser(
    name: str, description: str | None, *, rounds: int | None = None
) -> argparse.ArgumentParser:
    """The options of `python -m benchmarks.NAME`; `rounds` is a default, None: no such option."""
    found = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    found.add_argument("--folder", type=Path, help=f"write `{name}.json` and `{name}.md` there")
    if rounds is not None:
        found.add_argument("--rounds", type=int, default=rounds, help="rounds of each measurement")
    return found


class Report:
    """The tables of a benchmark, printed when they are ready and written at the end.

    **Arguments:**

    - `name`: the name of the benchmark, of its template, and of its files.
    - `folder`: where to write; None: nowhere.
    - `cores`: how many to use; None: all. XLA counts them at the first array, so the report is
        made before it.
    """

    def __init__(self, name: str, folder: Path | None, *, cores: int | None = 1):
        if cores is not None:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
        self._name, self._folder, self._console = name, folder, wide_console()
        self._about = machine.describe()
        self._console.print(
            f"{self._about['processor']}; {machine.versions_in_one_line(self._about)}"
        )

    def show(self, title: str, rows: list[dict[str, Any]]) -> None:
        """Print a table."""
        self._console.print(table(title, rows))

    def write(self, figures: dict[str, Any], **values: Any) -> None:
        """Write the files, if there is a folder.

        **Arguments:** `figures`, the contents of the JSON file beside the machine; `values`, those
        of the template beside the machine. A list of rows becomes a table. A dictionary of lists
        becomes one section for each, with its key as the title.
        """
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        contents = {"machine": self._about, **figures}
        text = json.dumps(contents, indent=2, ensure_ascii=False, default=vars)
        (self._folder / f"{self._name}.json").write_text(text + "\n", encoding="utf-8")
        template = (FOLDER / f"{self._name}.md").read_text(encoding="utf-8")
        page = template.format(
            **self._about | {"versions": machine.versions_in_one_line(self._about)},
            **{name: _as_text(value) for name, value in values.items()},
        )
        (self._folder / f"{self._name}.md").write_text(page, encoding="utf-8")


def _as_text(value: Any) -> Any:
    if isinstance(value, list):
        return markdown(value)
    if isinstance(value, dict):
        return "\n\n".join(f"### {title}\n\n{markdown(rows)}" for title, rows in value.items())
    return value
