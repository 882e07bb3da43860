"""Writes the page and the numbers of an experiment."""

import argparse
import json
from pathlib import Path
from typing import Any

from training import machine
from training.folder import finite_or_null

from .optimisers import WARM_UP
from .runs import SEEDS, TUNING_SEEDS

TEMPLATES = Path(__file__).parents[1] / "templates"


def parser(
    name: str, description: str | None, *, runs: str | None = None, writes: bool = True
) -> argparse.ArgumentParser:
    """The options of `python -m experiments.NAME`: the folders of the results and of the runs.

    **Arguments:** `runs`, the experiment whose runs are used, if any; `writes`, whether results are
    written.
    """
    found = argparse.ArgumentParser(prog=f"python -m experiments.{name}", description=description)
    if writes:
        found.add_argument(
            "--folder", type=_make_folder, default="docs/results", help="where to write"
        )
    if runs is not None:
        kept = Path("outputs") / runs
        found.add_argument("--runs", type=Path, default=kept, help="where runs are kept")
    return found


def write(name: str, folder: Path, results: dict[str, Any], **values: Any) -> None:
    """Write `NAME.md`, by the template of this name, and `NAME.json`, with null for NaN and ∞.

    **Arguments:** `results`, the contents of the JSON file beside the machine; `values`, those of
    the template beside what is common to all.
    """
    about = machine.describe()
    common = {
        "python": about["python"],
        "versions": machine.versions_in_one_line(about),
        "processor": about["processor"],
        "cores": about["cores"],
        "tuning_seeds": _listed(TUNING_SEEDS),
        "seeds": _listed(SEEDS),
        "warm_up": WARM_UP,
    }
    template = (TEMPLATES / f"{name}.md").read_text(encoding="utf-8")
    (folder / f"{name}.md").write_text(template.format(**common | values), encoding="utf-8")
    figures = finite_or_null({"machine": about, **results})
    text = json.dumps(figures, ensure_ascii=False, allow_nan=False)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def _make_folder(path: str) -> Path:
    """Make the folder of the results, before the experiment runs."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _listed(seeds: tuple[int, ...]) -> str:
    return ", ".join(map(str, seeds))
