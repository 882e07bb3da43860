"""Losses of several methods in one diagram."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from .curves import Curve

COLOURS = (
    "#d55e00", "#e69f00", "#0072b2", "#56b4e9", "#009e73", "#cc79a7", "#555555", "#000000",
)  # fmt: skip
STYLES = ("-", "--", ":")


def lines(
    axes: Axes, curves: Mapping[str, Sequence[Curve]], column: str, unit: float = 1.0
) -> None:
    """Draw a line per seed against a column of the curves, with a colour and style per method.

    **Arguments:** `unit`, a divisor for the losses.
    """
    styles = [(colour, style) for style in STYLES for colour in COLOURS]
    for (colour, style), (name, seeds) in zip(styles[: len(curves)], curves.items(), strict=True):
        for number, curve in enumerate(seeds):
            axes.plot(
                [getattr(point, column) for point in curve],
                [point.value / unit for point in curve],
                color=colour, linestyle=style, linewidth=1, label=name if number == 0 else None,
            )  # fmt: skip
