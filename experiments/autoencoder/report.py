"""The tables, as Markdown."""

from collections.abc import Mapping, Sequence

from experiments.markdown import table

from .curves import Curve
from .levels import LEVELS, Spread, ratio, reached, spread
from .tuning import Tried, label

NUMBERS = {"step": "steps", "seconds": "seconds", "processor_seconds": "processor seconds"}
OURS = "K-FAC"
AIMS = {"Adam": 1 / 2, "Muon": 1.0, "SOAP": 1.0, "Shampoo": 1.0}
"""What K-FAC's processor seconds over those of a rival are to be at most, at every level."""


def levels_table(curves: Mapping[str, Sequence[Curve]]) -> str:
    """One row per level and method; the last column compares the processor seconds with K-FAC's."""
    rows = []
    for level in LEVELS:
        points = {
            name: [reached(curve, level) for curve in seeds] for name, seeds in curves.items()
        }
        for name, seeds in points.items():
            cells = [_written(spread(seeds, number)) for number in NUMBERS]
            shared = points[OURS][: len(seeds)]
            compared = _written(ratio(shared, seeds, "processor_seconds"))
            rows.append([f"{level:g}", name, *cells, "" if name == OURS else compared])
    return table(["to a loss of", "", *NUMBERS.values(), f"{OURS} over it"], rows)


def tuning_table(tried: Sequence[Tried]) -> str:
    """One row per setting, in the order in which they were tried."""
    rows = []
    for setting, curve in tried:
        points = [reached(curve, level) for level in LEVELS]
        last = curve[-1]
        rows.append(
            [
                label(setting),
                *("–" if p is None else f"{p.step} / {p.processor_seconds:.1f}" for p in points),
                f"{1000 * last.processor_seconds / max(last.step, 1):.0f}",
                f"{last.loss:.1f} after {last.step}",
            ]
        )
    levels = (f"{level:g}: steps / processor seconds" for level in LEVELS)
    return table(["setting", *levels, "ms a step", "last loss"], rows)


def verdict(curves: Mapping[str, Sequence[Curve]]) -> str:
    """For every aim and level whether it is met, one line per rival."""
    lines = []
    for name, aim in AIMS.items():
        cells = []
        for level in LEVELS:
            ours, theirs = ([reached(c, level) for c in curves[who]] for who in (OURS, name))
            found = ratio(ours, theirs, "processor_seconds")
            if found is None:
                cells.append(f"{level:g}: a run never got there")
            else:
                word = "met" if found.median <= aim else "missed"
                cells.append(f"{level:g}: {found.median:.2f}, {word}")
        lines.append(f"- at most {aim:g} of {name}'s: {'; '.join(cells)}.")
    return "\n".join(lines)


def steps_of_hessian_free(curves: Mapping[str, Sequence[Curve]]) -> str:
    """The aim of Hessian-free: at most a twentieth of Adam's steps to the first level."""
    level = LEVELS[0]
    hessian_free, adam = (
        [reached(curve, level) for curve in curves[name]] for name in ("Hessian-free", "Adam")
    )
    found = ratio(hessian_free, adam[: len(hessian_free)], "step")
    if found is None:
        return f"A run never got to {level:g}."
    reads = "met" if found.median <= 1 / 20 else "missed"
    return f"1/{1 / found.median:.0f}, {reads}"


def _written(found: Spread | None) -> str:
    if found is None:
        return "–"
    median, low, high = (f"{number:.{3 if number < 100 else 4}g}" for number in found)
    return f"{median} ({low} to {high})"
