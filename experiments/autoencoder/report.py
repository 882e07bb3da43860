"""The tables, as Markdown."""

from experiments.markdown import table

from .curves import Curve
from .levels import LEVELS, Spread, ratio, reached, spread

NUMBERS = {"step": "steps", "seconds": "seconds", "processor_seconds": "processor seconds"}


def levels_table(curves: dict[str, list[Curve]]) -> str:
    """One row per level and number: each method's, and the first method's over the second's."""
    rows = []
    for level in LEVELS:
        points = [[reached(curve, level) for curve in seeds] for seeds in curves.values()]
        for name, title in NUMBERS.items():
            cells = [_written(spread(seeds, name)) for seeds in points]
            cells.append(_written(ratio(points[0], points[1], name)))
            rows.append([f"{level:g}", title, *cells])
    return table(["to a loss of", "", *curves, "ratio"], rows)


def tuning_table(tried: dict[float, Curve]) -> str:
    """One row per learning rate: steps to the first level, and the last loss."""
    rows = []
    for rate, curve in tried.items():
        point = reached(curve, LEVELS[0])
        steps, last = "–" if point is None else str(point.step), curve[-1]
        rows.append([f"{rate:g}", steps, f"{last.loss:.1f} after {last.step}"])
    return table(["rate", f"steps to {LEVELS[0]:g}", "last loss"], rows)


def verdict(curves: dict[str, list[Curve]]) -> str:
    """What was aimed at: at most a twentieth of Adam's steps to a loss of 90."""
    ours, theirs = ([reached(curve, LEVELS[0]) for curve in seeds] for seeds in curves.values())
    found = ratio(ours, theirs, "step")
    if found is None:
        return f"A run never got to {LEVELS[0]:g}."
    reads = "as was aimed at" if found.median <= 1 / 20 else "the aim, 1/20, is missed"
    return f"Steps to {LEVELS[0]:g}: 1/{1 / found.median:.0f} of Adam's ({reads})."


def _written(found: Spread | None) -> str:
    if found is None:
        return "–"
    median, low, high = (f"{number:.{3 if number < 100 else 4}g}" for number in found)
    return f"{median} ({low} to {high})"
