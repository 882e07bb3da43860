"""Loss by processor seconds, a panel for each problem."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from experiments.comparison.finals import Finals
from experiments.comparison.lines import lines


def draw(found: Sequence[Finals], path: Path) -> None:
    """A line per method and seed."""
    figure, panels = plt.subplots(
        1, len(found), figsize=(4.5 * len(found), 4.5), layout="constrained", squeeze=False
    )
    for axes, finals in zip(panels[0], found, strict=True):
        curves = {name: one.curves for name, one in finals.all().items()}
        lines(axes, curves, "processor_seconds")
        axes.set(xscale="log", yscale="log", xlabel="processor seconds", title=finals.problem.name)
    panels[0, 0].set_ylabel("training loss, whole part")
    panels[0, 0].legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
