"""The tables of comparisons, as Markdown."""

from collections.abc import Mapping, Sequence

from experiments.markdown import table

from .curves import Curve
from .levels import Spread, ratio, reached, spread
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
            cells = [written(spread(seeds, number)) for number in NUMBERS]
            compared = written(ratio(points[ours], seeds, "processor_seconds"))
            rows.append([f"{level:g}", name, *cells, "" if name == ours else compared])
    return table(["to a loss of", "", *NUMBERS.values(), f"{ours} over it"], rows)


def tuning_table(tried: Sequence[Tried], levels: Sequence[float], unit: float = 1.0) -> str:
    """One row per setting, in the order of the trials; losses are divided by `unit`."""
    rows = []
    for setting, curve in tried:
        points = [reached(curve, level) for level in levels]
        last = curve[-1]
        rows.append(
            [
                label(setting),
                *("–" if p is None else f"{p.step} / {p.processor_seconds:.1f}" for p in points),
                f"{1000 * last.processor_seconds / max(last.step, 1):.0f}",
                f"{last.loss / unit:.4g} after {last.step}",
            ]
        )
    heads = (f"{level / unit:.4g}: steps / processor seconds" for level in levels)
    return table(["setting", *heads, "ms a step", "last loss"], rows)


def written(found: Spread | None) -> str:
    """A median and its range; a dash if a seed has no number."""
    if found is None:
        return "–"
    median, low, high = (f"{number:.{3 if number < 100 else 4}g}" for number in found)
    return f"{median} ({low} to {high})"
