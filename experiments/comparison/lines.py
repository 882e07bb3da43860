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
    """A line per seed, against a column of the curves; a colour and a style per method.

    **Arguments:** `unit`, what losses are divided by.
    """
    styles = [(colour, style) for style in STYLES for colour in COLOURS]
    # The start, of no steps, is left out: it has no place on a logarithmic axis.
    for (colour, style), (name, seeds) in zip(styles[: len(curves)], curves.items(), strict=True):
        for number, curve in enumerate(seeds):
            axes.plot(
                [getattr(point, column) for point in curve[1:]],
                [point.loss / unit for point in curve[1:]],
                color=colour, linestyle=style, linewidth=1, label=name if number == 0 else None,
            )  # fmt: skip
