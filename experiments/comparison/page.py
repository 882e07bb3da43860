"""Writes the page, the figures and the numbers on how soon methods reach others' last losses."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from experiments.markdown import results_folder
from training import machine

from .curves import rounded
from .finals import Finals, Found
from .lines import lines
from .method import WARM_UP, label
from .runs import SEEDS, TUNING_SEED
from .tables import tuning_table


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The options of `python -m experiments.NAME`: the folders of the results and of the runs."""
    found = argparse.ArgumentParser(prog=f"python -m experiments.{name}", description=description)
    found.add_argument(
        "--folder", type=results_folder, default="docs/results", help="where to write"
    )
    found.add_argument(
        "--runs", type=Path, default=Path("outputs") / name, help="where runs are kept"
    )
    return found


def publish(
    found: Sequence[Finals], template: Path, folder: Path, *, unit: float = 1.0, **more: Any
) -> None:
    """Write `NAME.md`, `.json` and `.png`; NAME is the name of the template's folder.

    **Arguments:** `unit`, a divisor for the losses; `more`, further values for the template.
    """
    about, name = machine.describe(), template.parent.name
    text = template.read_text(encoding="utf-8").format(
        python=about["python"],
        versions=machine.versions_in_one_line(about),
        processor=about["processor"],
        cores=about["cores"],
        tuning_seed=TUNING_SEED,
        seeds=", ".join(map(str, SEEDS)),
        warm_up=WARM_UP,
        tables="\n\n".join(f"## {each.problem.name}\n\n{each.table(unit)}" for each in found),
        tuning="\n\n".join(
            f"### {each.problem.name}: {method}\n\n{tuning_table(one.tried, each.levels, unit)}"
            for each in found
            for method, one in each.all().items()
            if one.tried
        ),
        **more,
    )
    _draw(found, folder / f"{name}.png", unit)
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    results = {
        "machine": about,
        "seeds": SEEDS,
        "columns": ["step", "seconds", "processor_seconds", "loss"],
        "problems": {
            each.problem.name: {method: _plain(one) for method, one in each.all().items()}
            for each in found
        },
    }
    (folder / f"{name}.json").write_text(json.dumps(results) + "\n", encoding="utf-8")


def _plain(found: Found) -> dict[str, Any]:
    return {
        "setting": label(found.setting),
        "curves": [rounded(curve) for curve in found.curves],
        "tried": {label(setting): rounded(curve) for setting, curve in found.tried},
    }


def _draw(found: Sequence[Finals], path: Path, unit: float) -> None:
    """Draw the loss against processor seconds: a panel per problem, a line per method and seed."""
    figure, panels = plt.subplots(
        1, len(found), figsize=(4.5 * len(found) + 2, 4.5), layout="constrained", squeeze=False
    )
    for axes, finals in zip(panels[0], found, strict=True):
        curves = {name: one.curves for name, one in finals.all().items()}
        lines(axes, curves, "processor_seconds", unit)
        axes.set(xscale="log", yscale="log", xlabel="processor seconds", title=finals.problem.name)
    panels[0, 0].set_ylabel(f"loss of the {found[0].problem.part} part")
    figure.legend(
        *panels[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize="small"
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)
