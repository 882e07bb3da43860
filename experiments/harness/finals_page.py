"""The page of an experiment that compares methods with the last losses of rivals."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from .curves import round_curve
from .finals import Finals, Found
from .lines import lines
from .method import label
from .page import write
from .runs import SEEDS
from .tables import tuning_table


def publish(
    name: str, found: Sequence[Finals], folder: Path, *, unit: float = 1.0, **more: Any
) -> None:
    """Write `NAME.md`, `.json` and `.png`.

    **Arguments:** `unit`, a divisor for the losses; `more`, further values for the template.
    """
    _draw(found, folder / f"{name}.png", unit)
    results = {
        "seeds": SEEDS,
        "columns": ["step", "seconds", "processor_seconds", "loss"],
        "problems": {
            each.problem.name: {method: _plain(one) for method, one in each.all().items()}
            for each in found
        },
    }
    write(
        name,
        folder,
        results,
        tables="\n\n".join(f"## {each.problem.name}\n\n{each.table(unit)}" for each in found),
        tuning="\n\n".join(
            f"### {each.problem.name}: {method}\n\n{tuning_table(one.tried, each.levels, unit)}"
            for each in found
            for method, one in each.all().items()
            if one.tried
        ),
        **more,
    )


def _plain(found: Found) -> dict[str, Any]:
    return {
        "setting": label(found.setting),
        "curves": [round_curve(curve) for curve in found.curves],
        "tried": {
            label(each.setting): [round_curve(curve) for curve in each.curves]
            for each in found.tried
        },
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
