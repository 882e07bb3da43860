"""The tables of comparisons, as Markdown."""

import math
from collections.abc import Mapping, Sequence

from .curves import Curve
from .levels import Spread, ratio, reached, spread
from .markdown import table
from .method import label
from .tuning import Tried

NUMBERS = {"step": "steps", "seconds": "seconds", "processor_seconds": "processor seconds"}


def levels_table(curves: Mapping[str, Sequence[Curve]], levels: Sequence[float], ours: str) -> str:
    """One row per level and method; the last column compares the processor seconds with `ours`."""
    rows = []
    for level in levels:
        points = {
            name: [reached(curve, level) for curve in seeds] for name, seeds in curves.items()
        }
        for name, seeds in points.items():
            cells = [format_spread(spread(seeds, number)) for number in NUMBERS]
            compared = format_spread(ratio(points[ours], seeds, "processor_seconds"))
            rows.append([f"{level:g}", name, *cells, "" if name == ours else compared])
    return table(["to a loss of", "", *NUMBERS.values(), f"{ours} over it"], rows)


def tuning_table(tried: Sequence[Tried], levels: Sequence[float] = (), unit: float = 1.0) -> str:
    """One row per setting, in the order of the trials; losses are divided by `unit`.

    With several tuning seeds, each number is the mean over them.
    """
    rows = []
    for each in tried:
        seconds = [each.seconds_to(level) for level in levels]
        ends = [curve[-1] for curve in each.curves]
        spent = sum(end.processor_seconds for end in ends) / sum(end.step for end in ends)
        rows.append(
            [
                label(each.setting),
                *("–" if math.isinf(number) else f"{number:.1f}" for number in seconds),
                f"{1000 * spent:.0f}",
                f"{each.last_loss / unit:.4g} after {ends[0].step}",
            ]
        )
    heads = (f"processor seconds to {level / unit:.4g}" for level in levels)
    return table(["setting", *heads, "ms a step", "last loss"], rows)


def format_spread(found: Spread | None) -> str:
    """A median and its range; a dash if a seed has no number."""
    if found is None:
        return "–"
    median, low, high = (f"{number:.{3 if number < 100 else 4}g}" for number in found)
    return f"{median} ({low} to {high})"
